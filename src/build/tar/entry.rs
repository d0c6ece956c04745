//! An entry of a tar, read from a header and its extensions, and written again.
//!
//! Programs differ in how they read a header. So the engine never reads a client's header, but a header that
//! was written here from the understood parts: ustar, with PAX records for values that do not fit (POSIX,
//! "pax Interchange Format").

use bytes::{BufMut as _, BytesMut};
use tonic::Status;

use super::refused;
use crate::names::printable;

/// A tar's unit: each header has this size, and an entry's bytes are padded to it.
pub(in crate::build) const BLOCK_BYTES: usize = 512;

/// The prefix of PAX records with extended attributes, the same in all tar programs.
const XATTR: &str = "SCHILY.xattr.";

/// The type of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink,
    /// A hard link to an earlier file.
    Link,
}

/// Values from extensions for the entry that follows them.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
    owner: [Option<u64>; 2],
    mtime: Option<String>,
    xattrs: Vec<(String, Vec<u8>)>,
}

/// An entry, as it was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) path: String,
    /// The target of a link.
    pub(super) target: String,
    pub(super) size: u64,
    mode: u64,
    /// The user's and the group's ids.
    owner: [u64; 2],
    /// Seconds since 1970, possibly with a fraction or a sign, as in PAX.
    mtime: String,
    xattrs: Vec<(String, Vec<u8>)>,
}

impl Extensions {
    /// Reads GNU's long name (`L`) or link (`K`).
    pub(super) fn long(&mut self, kind: u8, body: &[u8]) {
        let text = body.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        let place = if kind == b'L' { &mut self.path } else { &mut self.target };
        *place = Some(text);
    }

    /// Reads PAX's records: `LENGTH KEY=VALUE\n`.
    pub(super) fn records(&mut self, mut body: &[u8]) -> Result<(), Status> {
        while !body.is_empty() {
            let (key, value) = record(&mut body)
                .ok_or_else(|| refused("the tar has an extended header that cannot be read"))?;
            self.record(key, value)?;
        }
        Ok(())
    }

    fn record(&mut self, key: &str, value: &[u8]) -> Result<(), Status> {
        let broken = || refused(format!("the tar has a record `{}` that cannot be read", printable(key)));
        let number = || std::str::from_utf8(value).ok()?.parse::<u64>().ok();
        match key {
            // A record without a value has no effect.
            _ if value.is_empty() => {}
            "path" => self.path = Some(value.to_vec()),
            "linkpath" => self.target = Some(value.to_vec()),
            "size" => self.size = Some(number().ok_or_else(broken)?),
            "uid" => self.owner[0] = Some(number().ok_or_else(broken)?),
            "gid" => self.owner[1] = Some(number().ok_or_else(broken)?),
            "mtime" => self.mtime = Some(time(value).ok_or_else(broken)?.to_owned()),
            _ if key.starts_with("GNU.sparse.") => return Err(sparse()),
            _ => {
                // Other attributes concern the machine that made the tar.
                if let Some(name) = key.strip_prefix(XATTR)
                    && (name == "security.capability" || name.starts_with("user."))
                {
                    self.xattrs.push((name.to_owned(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// The error for a file with holes.
pub(super) fn sparse() -> Status {
    refused("the tar has a file with holes: make it without `--sparse`")
}

/// Reads one PAX record.
pub(in crate::build) fn record<'a>(body: &mut &'a [u8]) -> Option<(&'a str, &'a [u8])> {
    let space = body.iter().take(20).position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(body.get(..space)?).ok()?.parse().ok()?;
    let (record, rest) = body.split_at_checked(length)?;
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    *body = rest;
    Some((std::str::from_utf8(record.get(..equals)?).ok()?, record.get(equals + 1..)?))
}

/// Reads a PAX time: `1700000000.25`, possibly with a sign.
fn time(value: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(value).ok().filter(|text| text.len() <= 40)?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = seconds.strip_prefix('-').unwrap_or(seconds);
    (is_number(seconds) && seconds.len() <= 18 && is_number(fraction)).then_some(text)
}

impl Entry {
    /// Reads a header whose type is `kind`.
    pub(super) fn read(kind: Kind, header: &[u8], extensions: Extensions) -> Result<Self, Status> {
        let mut path = field(header, 0, 100).to_vec();
        // Only POSIX's format has the name's beginning there.
        if header.get(257..263) == Some(b"ustar\0") && !field(header, 345, 155).is_empty() {
            path = [field(header, 345, 155), b"/", &path].concat();
        }
        let path = inside(extensions.path.unwrap_or(path))?;
        let broken = || refused(format!("the header of `{}` cannot be read", printable(&path)));
        let number = |at, length| header.get(at..at + length).and_then(number).ok_or_else(broken);
        let target = extensions.target.unwrap_or_else(|| field(header, 157, 100).to_vec());
        let target = match kind {
            Kind::File | Kind::Directory => String::new(),
            Kind::Link => inside(target)?,
            Kind::Symlink => String::from_utf8(target).map_err(|_| broken())?,
        };
        let [user, group] = extensions.owner;
        let owner = [user.map_or_else(|| number(108, 8), Ok)?, group.map_or_else(|| number(116, 8), Ok)?];
        if owner.iter().any(|id| *id >= u64::from(u32::MAX)) {
            return Err(refused(format!("`{}` has an owner with an impossible id", printable(&path))));
        }
        let size = extensions.size.map_or_else(|| number(124, 12), Ok)?;
        let is_real = matches!(kind, Kind::File | Kind::Directory);
        Ok(Self {
            kind,
            target,
            size: if kind == Kind::File { size } else { 0 },
            mode: number(100, 8)? & 0o7777,
            owner,
            // Without a PAX record, a time before 1970 probably comes from a broken clock.
            mtime: extensions.mtime.unwrap_or_else(|| number(136, 12).unwrap_or(0).to_string()),
            xattrs: if is_real { extensions.xattrs } else { Vec::new() },
            path,
        })
    }

    /// The root directory of all entries.
    pub(super) fn root() -> Self {
        Self {
            kind: Kind::Directory,
            path: String::new(),
            target: String::new(),
            size: 0,
            mode: 0o755,
            owner: [0, 0],
            mtime: "0".to_owned(),
            xattrs: Vec::new(),
        }
    }

    /// How much its path, its link and its attributes say.
    pub(super) fn bytes(&self) -> usize {
        let xattrs: usize = self.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.path.len() + self.target.len() + xattrs
    }

    /// Writes the entry's headers.
    pub(super) fn write(&self, out: &mut BytesMut) {
        let mut header = Header::new(self.kind);
        let mut records = Vec::new();
        let path = if self.path.is_empty() { "./" } else { &self.path };
        header.text(0, path, "path", &mut records);
        header.text(157, &self.target, "linkpath", &mut records);
        header.number(100, 8, self.mode, "mode", &mut records);
        header.number(108, 8, self.owner[0], "uid", &mut records);
        header.number(116, 8, self.owner[1], "gid", &mut records);
        header.number(124, 12, self.size, "size", &mut records);
        match self.mtime.parse() {
            Ok(seconds) => header.number(136, 12, seconds, "mtime", &mut records),
            Err(_) => {
                header.octal(136, 12, 0);
                push_record(&mut records, "mtime", self.mtime.as_bytes());
            }
        }
        for (name, value) in &self.xattrs {
            push_record(&mut records, &format!("{XATTR}{name}"), value);
        }
        if !records.is_empty() {
            let mut extended = Header::new(Kind::File);
            extended.0[156] = b'x';
            extended.put(0, b"extended");
            extended.octal(100, 8, 0o644);
            for (at, length) in [(108, 8), (116, 8), (136, 12)] {
                extended.octal(at, length, 0);
            }
            extended.octal(124, 12, records.len() as u64);
            extended.finish(out);
            out.put_slice(&records);
            out.put_bytes(0, padding(records.len() as u64));
        }
        header.finish(out);
    }
}

/// The number of bytes that pad `size` bytes to whole blocks.
pub(in crate::build) fn padding(size: u64) -> usize {
    let block = BLOCK_BYTES as u64;
    // Less than a block.
    usize::try_from((block - size % block) % block).unwrap_or(0)
}

/// A path in the form that the engine accepts: relative, without a `.` or an empty component.
fn inside(path: Vec<u8>) -> Result<String, Status> {
    let path = String::from_utf8(path).map_err(|error| {
        let path = String::from_utf8_lossy(error.as_bytes()).into_owned();
        refused(format!("the name `{}` is not UTF-8 text: rename it", printable(&path)))
    })?;
    let names: Vec<&str> = path.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
    if !names.is_empty() {
        super::super::packets::inside(&names.join("/"))?;
    }
    Ok(names.join("/"))
}

/// A text in a header, which a NUL ends.
pub(in crate::build) fn field(header: &[u8], at: usize, length: usize) -> &[u8] {
    let field = header.get(at..at + length).unwrap_or_default();
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// The name in a header.
pub(in crate::build) fn name(header: &[u8]) -> &[u8] {
    field(header, 0, 100)
}

/// The size in a header.
pub(in crate::build) fn size(header: &[u8]) -> Option<u64> {
    number(header.get(124..136)?)
}

/// A number in a header: octal digits, or GNU's binary form.
fn number(field: &[u8]) -> Option<u64> {
    match field.split_first()? {
        (0x80, rest) => rest
            .iter()
            .try_fold(0_u64, |number, byte| number.checked_mul(256).map(|number| number | u64::from(*byte))),
        (first, _) if *first > 0x80 => None,
        _ => octal(field),
    }
}

/// Octal digits between spaces and NULs, as Go reads them; no digits mean zero.
fn octal(field: &[u8]) -> Option<u64> {
    let is_blank = |byte: &u8| matches!(byte, b' ' | 0);
    let begin = field.iter().position(|byte| !is_blank(byte)).unwrap_or(field.len());
    let field = field.get(begin..)?;
    let end = field.iter().rposition(|byte| !is_blank(byte)).map_or(0, |last| last + 1);
    let digits = field.get(..end)?.split(|byte| *byte == 0).next()?;
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = char::from(*digit).to_digit(8)?;
        number.checked_mul(8).map(|number| number | u64::from(digit))
    })
}

/// Whether a block is the header of an entry, by Go's rules.
pub(in crate::build) fn is_header(block: &[u8]) -> bool {
    let (Some(block), Some(field)) = (block.get(..BLOCK_BYTES), block.get(148..156)) else { return false };
    let of = |at: usize, byte: u8| if (148..156).contains(&at) { b' ' } else { byte };
    let unsigned: u64 = block.iter().enumerate().map(|(at, byte)| u64::from(of(at, *byte))).sum();
    // Old tars sum the bytes as signed.
    let signed: i64 = block.iter().enumerate().map(|(at, byte)| i64::from(of(at, *byte).cast_signed())).sum();
    octal(field).is_some_and(|sum| sum == unsigned || i64::try_from(sum) == Ok(signed))
}

/// A ustar header that is being written.
struct Header([u8; BLOCK_BYTES]);

impl Header {
    fn new(kind: Kind) -> Self {
        let mut header = Self([0; BLOCK_BYTES]);
        header.put(257, b"ustar\x0000");
        header.0[156] = match kind {
            Kind::File => b'0',
            Kind::Link => b'1',
            Kind::Symlink => b'2',
            Kind::Directory => b'5',
        };
        header
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        for (place, byte) in self.0.iter_mut().skip(at).zip(bytes) {
            *place = *byte;
        }
    }

    /// Writes a text of up to a hundred bytes; a longer text goes into a record.
    fn text(&mut self, at: usize, text: &str, key: &str, records: &mut Vec<u8>) {
        if text.len() <= 100 && text.is_ascii() {
            self.put(at, text.as_bytes());
        } else {
            self.put(at, b"extended");
            push_record(records, key, text.as_bytes());
        }
    }

    /// Writes a number; into a record if the field is too small.
    fn number(&mut self, at: usize, length: usize, number: u64, key: &str, records: &mut Vec<u8>) {
        let bits = 3 * (length - 1);
        if number >> bits == 0 {
            self.octal(at, length, number);
        } else {
            self.octal(at, length, 0);
            push_record(records, key, number.to_string().as_bytes());
        }
    }

    fn octal(&mut self, at: usize, length: usize, number: u64) {
        let digits = format!("{number:0width$o}", width = length - 1);
        self.put(at, digits.as_bytes());
    }

    fn finish(mut self, out: &mut BytesMut) {
        self.put(148, &[b' '; 8]);
        let sum: u64 = self.0.iter().map(|byte| u64::from(*byte)).sum();
        self.put(148, format!("{sum:06o}\0 ").as_bytes());
        out.put_slice(&self.0);
    }
}

/// Adds `LENGTH KEY=VALUE\n`; the length includes its own digits.
fn push_record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() > length {
        length += 1;
    }
    records.extend_from_slice(format!("{length} {key}=").as_bytes());
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// How many of `length` bytes belong to a part of which so many are `left`.
pub(in crate::build) fn at_most(left: u64, length: usize) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(length)
}

/// The name in a header, and whether all read it in the same way.
pub(in crate::build) fn whole_name(block: &[u8]) -> (Vec<u8>, bool) {
    let name = name(block);
    let magic = block.get(257..265).unwrap_or_default();
    let is_star = block.get(508..512) == Some(b"tar\0");
    let (prefix, is_sure) = match magic {
        [b'u', b's', b't', b'a', b'r', 0, ..] if is_star => (field(block, 345, 131), true),
        [b'u', b's', b't', b'a', b'r', 0, ..] => (field(block, 345, 155), true),
        // Go takes times that it cannot read for a prefix.
        b"ustar  \0" => (&[][..], block.get(345..500).is_some_and(|part| part.iter().all(|byte| *byte == 0))),
        _ => (&[][..], true),
    };
    match prefix {
        [] => (name.to_vec(), is_sure),
        prefix => ([prefix, b"/", name].concat(), is_sure),
    }
}
