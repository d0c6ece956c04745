//! The job that a user is for itself, outside of any.

use std::fs;

/// The job of the user `uid`, when it is in none: `user/alice`. It is what the client acts as by
/// default, and all that wharfd serves to a user that no configuration names.
pub fn own_job(uid: u32) -> String {
    format!("user/{}", login_of(uid, &fs::read_to_string("/etc/passwd").unwrap_or_default()))
}

/// The login name in passwd(5), else the number. A static binary has no other name service.
fn login_of(uid: u32, users: &str) -> String {
    let uid = uid.to_string();
    let entry = users.lines().find(|line| line.split(':').nth(2) == Some(&uid));
    match entry.and_then(|entry| entry.split(':').next()) {
        // No pattern of job names comes from here.
        Some(login) if !login.is_empty() && !login.contains('*') => login.to_owned(),
        _ => format!("uid-{uid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_without_a_plain_name_is_its_number() {
        let users = "root:x:0:0::/root:/bin/sh\n*:x:7:7:::\n:x:8:8:::\nshort\n";
        for (uid, login) in [(0, "root"), (7, "uid-7"), (8, "uid-8"), (9, "uid-9")] {
            assert_eq!(login_of(uid, users), login);
        }
    }
}
