//! Go's `os.FileMode`, as `fsutil.types.Stat` carries it: its type bits are not those of `st_mode`
//! (`io/fs`).

#![allow(missing_docs, reason = "each is Go's constant of that name")]

pub const DIR: u32 = 1 << 31;
pub const SYMLINK: u32 = 1 << 27;
pub const DEVICE: u32 = 1 << 26;
pub const NAMED_PIPE: u32 = 1 << 25;
pub const SOCKET: u32 = 1 << 24;
pub const SETUID: u32 = 1 << 23;
pub const SETGID: u32 = 1 << 22;
pub const CHAR_DEVICE: u32 = 1 << 21;
pub const STICKY: u32 = 1 << 20;
pub const IRREGULAR: u32 = 1 << 19;
/// The bits of all types but regular files.
pub const TYPE: u32 = DIR | SYMLINK | DEVICE | NAMED_PIPE | SOCKET | CHAR_DEVICE | IRREGULAR;

/// The set-id bits and the sticky one, in Go's mode and in `st_mode`.
const SPECIAL: [(u32, u32); 3] = [(SETUID, 0o4000), (SETGID, 0o2000), (STICKY, 0o1000)];

/// The permissions of an `st_mode`, with the set-id bits and the sticky one.
pub fn from_permissions(st_mode: u32) -> u32 {
    let set = SPECIAL.iter().filter(|(_, own)| st_mode & own != 0);
    set.fold(st_mode & 0o777, |all, (go, _)| all | go)
}

/// The same as an `st_mode` has them.
pub fn permissions(go: u32) -> u32 {
    let set = SPECIAL.iter().filter(|(bit, _)| go & bit != 0);
    set.fold(go & 0o777, |all, (_, own)| all | own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_the_same_in_both() {
        for st_mode in 0..=0o7777 {
            let go = from_permissions(0o100_000 | st_mode);
            assert_eq!(go & TYPE, 0);
            assert_eq!(permissions(DIR | go), st_mode);
        }
        assert_eq!(from_permissions(0o7000), SETUID | SETGID | STICKY);
    }
}
