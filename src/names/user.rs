//! The job name for a user who works outside any Jenkins job.

use std::fs;

/// The job of the user `uid` outside any Jenkins job: `user/alice`. The client uses it by default, and
/// wharfd serves only this job to a user that the configuration does not name.
pub fn own_job(uid: u32) -> String {
    format!("user/{}", login_of(uid, &fs::read_to_string("/etc/passwd").unwrap_or_default()))
}

/// The login name from passwd(5), or the uid. A static binary has no other name service.
fn login_of(uid: u32, users: &str) -> String {
    let uid = uid.to_string();
    let entry = users.lines().find(|line| line.split(':').nth(2) == Some(&uid));
    match entry.and_then(|entry| entry.split(':').next()) {
        // A `*` would turn the job name into a pattern.
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
