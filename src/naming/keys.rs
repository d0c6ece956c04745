//! The node's secret, and the keyed hashes made with it.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::{
    BuildKey, FRONTEND_ROOM, HOLD_ROOM, ImageName, InputKey, JobKey, LongName, MountsKey, NODE_ROOM,
    NamespaceKey, NamespaceNames, RELAY_PATH, Room, relay_instance, room,
};
use crate::names::{Job, Namespace, RESERVED_HOST, Secret, reference::Digest};

const FILE_NAME: &str = "node.key";
const KEY_BYTES: usize = 32;
/// 128 bits: no two names collide by chance. 32 digits fit into a label of a host name, as which the salt is
/// used.
const HASH_DIGITS: usize = 32;
const INSTANCE_DIGITS: usize = 16;
/// Stands between the parts of the prefix of cache mounts.
const PARTS: char = '.';

/// Keyed hashes of names, all of one length, useless without the node's secret. BuildKit joins keys with `/`,
/// so a name passed through unchanged could extend into another job's key.
#[derive(Clone)]
pub struct Keys {
    secret: Arc<Secret<[u8; KEY_BYTES]>>,
    instance: Arc<str>,
}

/// The reason why the node's secret cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum KeyError {
    #[error("cannot use `{}`", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("`{}` is open to other users (mode {mode:04o}): run `chmod 600` on it", path.display())]
    Mode { path: PathBuf, mode: u32 },
    #[error("`{}` belongs to uid {uid}: it must belong to wharfd's own user", path.display())]
    Owner { path: PathBuf, uid: u32 },
    #[error("`{}` must have {KEY_BYTES} bytes: remove it, and wharfd makes a new one, with which all caches start empty", path.display())]
    Length { path: PathBuf },
    #[error("cannot get random bytes")]
    Random(#[source] getrandom::Error),
}

impl Keys {
    /// Reads the secret in `state_dir`, which the store has locked, or makes a new one.
    pub fn load(state_dir: &Path) -> Result<Self, KeyError> {
        let path = state_dir.join(FILE_NAME);
        let failed = |source| KeyError::Io { path: path.clone(), source };
        match File::open(&path) {
            Ok(file) => read(&file, &path).map(Self::new),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut secret = [0; KEY_BYTES];
                getrandom::fill(&mut secret).map_err(KeyError::Random)?;
                create(&path, &secret).map_err(failed)?;
                Ok(Self::new(secret))
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// For `fuzz/`: keys of a secret that everyone knows.
    #[cfg(feature = "fuzzing")]
    pub(crate) fn known() -> Self {
        Self::new([7; KEY_BYTES])
    }

    fn new(secret: [u8; KEY_BYTES]) -> Self {
        let mut keys = Self { secret: Arc::new(Secret::new(secret)), instance: Arc::from("") };
        let mut instance = keys.hash("instance", []);
        instance.truncate(INSTANCE_DIGITS);
        keys.instance = instance.into();
        keys
    }

    /// Distinguishes the names of this wharfd from those of others on the same engine. 16 digits.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// The opaque name of a namespace.
    pub fn namespace(&self, namespace: &Namespace) -> NamespaceKey {
        NamespaceKey::new(self.hash("namespace", [&*namespace.job().key(), namespace.run()]))
    }

    /// Makes and reads the names of a namespace's images.
    pub fn names(&self, namespace: &Namespace) -> NamespaceNames {
        NamespaceNames::new(self, namespace)
    }

    /// The opaque name of a job.
    pub fn job(&self, job: &Job) -> JobKey {
        JobKey::new(self.hash("job", [&*job.key()]))
    }

    /// Keeps a job's step results apart from other jobs'. Steps can print it.
    pub fn salt(&self, job: &Job) -> String {
        self.hash("salt", [&*job.key()])
    }

    /// The path of the file in the layers of a job's own. Everybody who pulls the job's images can read it there, so it
    /// must not be the salt.
    pub fn own_layers(&self, job: &Job) -> String {
        format!("/.wharf-{}", self.hash("layers", [&*job.key()]))
    }

    /// The name of all cache mounts of a job, as [`Keys::job_of_mount`] finds it in a mount's id.
    pub fn mounts_of(&self, job: &Job) -> MountsKey {
        MountsKey::new(self.hash("cache-mounts", [&*job.key()]))
    }

    /// The prefix of all cache mounts of a job, before a `.` or `/`, by their name.
    pub fn mounts_prefix(&self, name: &MountsKey) -> String {
        format!("{}{PARTS}{name}", self.instance)
    }

    /// The prefix of a job's cache mounts, subdivided by the client's value. It says whose they are, since BuildKit keeps
    /// nothing else of a mount's owner.
    pub fn cache_mounts(&self, job: &Job, client_value: Option<&str>) -> String {
        let mut prefix = self.mounts_prefix(&self.mounts_of(job));
        if let Some(value) = client_value {
            prefix.push(PARTS);
            prefix.push_str(&self.hash("cache-mounts-part", [&*job.key(), value]));
        }
        prefix
    }

    /// The job that has the cache mount with this id, and the id that the job gave it; `None` if it is none of this
    /// wharfd's.
    pub fn job_of_mount<'a>(&self, id: &'a str) -> Option<(MountsKey, &'a str)> {
        let (prefix, given) = id.split_once('/')?;
        let mut parts = prefix.split(PARTS);
        let (instance, job) = (parts.next()?, parts.next()?);
        let is_hash = |part: &str| part.len() == HASH_DIGITS && part.bytes().all(|b| b.is_ascii_hexdigit());
        let is_own = instance == self.instance() && is_hash(job) && parts.next().is_none_or(is_hash);
        (is_own && parts.next().is_none()).then(|| (MountsKey::new(job.to_owned()), given))
    }

    /// The key of the directories that a session of a job sends: of each, its kind (`context`,
    /// `dockerfile`), its path in the workspace and the state that the client names.
    pub fn shared_key(&self, job: &Job, directories: &[[&str; 3]]) -> String {
        let directories = directories.iter().flatten().copied();
        self.hash("shared-key", std::iter::once(&*job.key()).chain(directories))
    }

    /// Distinguishes builds of a job that use different bases. The parts are a Dockerfile's path, a target,
    /// and the like.
    pub fn build(&self, job: &Job, parts: &[&str]) -> BuildKey {
        BuildKey::new(self.hash("build", std::iter::once(&*job.key()).chain(parts.iter().copied())))
    }

    /// The input of a build.
    pub fn input<'a>(&self, parts: impl IntoIterator<Item = &'a str>) -> InputKey {
        InputKey::new(self.hash("input", parts))
    }

    /// The hold of an admitted image, by the digest of its manifest.
    pub fn hold(&self, manifest: &Digest) -> ImageName {
        self.name_in(HOLD_ROOM, "hold", manifest.as_str())
    }

    /// The hold of an image that the operator has put on the node, by its id. Separate from [`Keys::hold`],
    /// since nobody has proven access to the image, and nobody has to.
    pub fn node_hold(&self, id: &Digest) -> ImageName {
        self.name_in(NODE_ROOM, "node-hold", id.as_str())
    }

    /// The hold of an image for one build, by a random id.
    pub fn passing_hold(&self, id: &str) -> ImageName {
        self.name_in(NODE_ROOM, "passing-hold", id)
    }

    /// The name of a registry's repository at the relay.
    pub fn relay(&self, repository: &str) -> String {
        format!("{RELAY_PATH}/{}/{}", self.instance, self.hash("relay", [repository]))
    }

    /// The name of the frontend's image, by its content.
    pub fn frontend(&self, content: &Digest) -> ImageName {
        self.name_in(FRONTEND_ROOM, "frontend", content.as_str())
    }

    /// This wharfd's own name that reads `name`, and its room; `None` for any other name.
    pub fn own(&self, name: &str) -> Option<(ImageName, Room)> {
        let (instance, room) = room(name)?;
        (instance == self.instance()).then(|| (ImageName::new(name.to_owned()), room))
    }

    /// The name of one of this wharfd's transfers at its relay that reads `name`; `None` for any other name.
    pub fn own_transfer(&self, name: &str) -> Option<ImageName> {
        (relay_instance(name)? == self.instance()).then(|| ImageName::new(name.to_owned()))
    }

    /// A name in one of this wharfd's rooms, by the hash of what it names.
    fn name_in(&self, room: &str, purpose: &str, named: &str) -> ImageName {
        let hash = self.hash(purpose, [named]);
        ImageName::new(format!("{RESERVED_HOST}/{}/{room}/{hash}:1", self.instance))
    }

    pub(super) fn reference(&self, reference: &str) -> LongName {
        LongName::new(self.hash("reference", [reference]))
    }

    /// HMAC-SHA256 of `domain` and `parts`, each preceded by its length.
    fn hash<'a>(&self, domain: &'a str, parts: impl IntoIterator<Item = &'a str>) -> String {
        // A key shorter than HMAC's block is padded with zeros (RFC 2104, section 2).
        let mut block = hmac::digest::Key::<Hmac<Sha256>>::default();
        for (to, from) in block.iter_mut().zip(self.secret.expose()) {
            *to = *from;
        }
        let mut mac = Hmac::<Sha256>::new(&block);
        for part in std::iter::once(domain).chain(parts) {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        let mut digits: String =
            mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        digits.truncate(HASH_DIGITS);
        digits
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("instance", &self.instance).finish_non_exhaustive()
    }
}

fn read(file: &File, path: &Path) -> Result<[u8; KEY_BYTES], KeyError> {
    let failed = |source| KeyError::Io { path: path.to_owned(), source };
    let metadata = file.metadata().map_err(failed)?;
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Mode { path: path.to_owned(), mode });
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(KeyError::Owner { path: path.to_owned(), uid: metadata.uid() });
    }
    let mut content = Vec::with_capacity(KEY_BYTES + 1);
    file.take(KEY_BYTES as u64 + 1).read_to_end(&mut content).map_err(failed)?;
    content.try_into().map_err(|_| KeyError::Length { path: path.to_owned() })
}

/// Writes the whole file under another name first, so that a crash leaves no partial key.
fn create(path: &Path, secret: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("key.new");
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(secret)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    pub(crate) fn keys(byte: u8) -> Keys {
        Keys::new([byte; KEY_BYTES])
    }

    fn job(name: &str) -> Job {
        Namespace::new(name, "1").unwrap().job().clone()
    }

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("wharf-keys-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn the_secret_is_made_once_and_kept_from_others() {
        let path = directory("load");
        let first = Keys::load(&path).unwrap();
        let file = path.join(FILE_NAME);
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        assert_eq!(Keys::load(&path).unwrap().salt(&job("a")), first.salt(&job("a")));
        assert!(!format!("{first:?}").contains("secret"));

        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let error = Keys::load(&path).unwrap_err();
        assert!(error.to_string().contains("mode 0640"), "{error}");

        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&file, [0; KEY_BYTES + 1]).unwrap();
        assert!(matches!(Keys::load(&path), Err(KeyError::Length { .. })));

        fs::remove_file(&file).unwrap();
        assert_ne!(Keys::load(&path).unwrap().salt(&job("a")), first.salt(&job("a")));
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn no_two_uses_share_a_hash() {
        let (one, two) = (keys(1), keys(2));
        let namespace = |job: &str, run: &str| Namespace::new(job, run).unwrap();
        let hashes = [
            one.namespace(&namespace("a", "bc")).to_string(),
            one.namespace(&namespace("ab", "c")).to_string(),
            two.namespace(&namespace("a", "bc")).to_string(),
            one.job(&job("a")).to_string(),
            one.job(namespace("a", "1").issued_by("b".to_owned().try_into().unwrap()).job()).to_string(),
            one.salt(&job("a")),
            one.mounts_of(&job("a")).to_string(),
            one.cache_mounts(&job("a"), Some("")).split_off(INSTANCE_DIGITS + HASH_DIGITS + 2),
            one.cache_mounts(&job("a"), Some("x")).split_off(INSTANCE_DIGITS + HASH_DIGITS + 2),
            one.shared_key(&job("a"), &[["context", "x", ""], ["dockerfile", "y", ""]]),
            one.shared_key(&job("a"), &[["context", "x", ""]]),
            one.shared_key(&job("a"), &[["context", "x", "1"]]),
            one.shared_key(&job("a"), &[["context", "xdockerfile", ""]]),
            one.build(&job("a"), &["x"]).to_string(),
            one.input(["a", "x"]).to_string(),
        ];
        for (index, hash) in hashes.iter().enumerate() {
            assert!(hash.len() == HASH_DIGITS && hash.bytes().all(|b| b.is_ascii_hexdigit()), "{hash}");
            assert!(!hashes[..index].contains(hash), "{hash}");
        }
        assert_eq!(one.instance().len(), INSTANCE_DIGITS);
    }

    #[test]
    fn a_cache_mount_tells_its_job() {
        let (one, two, job) = (keys(1), keys(2), job("a"));
        let name = one.mounts_of(&job);
        for part in [None, Some(""), Some("x")] {
            let prefix = one.cache_mounts(&job, part);
            for given in ["/root/.cache", "npm", "", "a/b"] {
                let id = format!("{prefix}/{given}");
                assert_eq!(one.job_of_mount(&id), Some((name.clone(), given)));
                assert_eq!(two.job_of_mount(&id), None);
            }
            assert_eq!(one.job_of_mount(&prefix), None);
            assert_eq!(one.job_of_mount(&format!("/{prefix}/npm")), None);
        }
        let instance = one.instance();
        for foreign in [
            String::new(),
            format!("{name}/npm"),
            format!("{instance}/npm"),
            format!("{instance}.{name}x/npm"),
            format!("{instance}.{name}.x/npm"),
            format!("{instance}.{name}.{name}.{name}/npm"),
        ] {
            assert_eq!(one.job_of_mount(&foreign), None, "{foreign}");
        }
    }
}
