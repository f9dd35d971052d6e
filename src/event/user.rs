//! The user an event is attributed to.

use std::fs;

/// In `/proc/self/loginuid`: this process comes from no login.
const NO_LOGIN: u32 = u32::MAX;

/// The name of a user, or its number if this host's file of users does not have it.
pub(super) fn name(uid: u32) -> String {
    fs::read_to_string("/etc/passwd").ok().and_then(|users| name_in(&users, uid)).unwrap_or_else(|| uid.to_string())
}

/// The login user behind `uid`, if sudo for instance changed it; the kernel keeps that across changes of user.
pub(super) fn login(uid: u32) -> Option<String> {
    let login = fs::read_to_string("/proc/self/loginuid").ok()?.trim().parse().ok()?;
    (login != NO_LOGIN && login != uid).then(|| name(login))
}

/// A line of passwd(5) is `name:password:uid:...`.
fn name_in(users: &str, uid: u32) -> Option<String> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (number.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_names_or_numbers() {
        let users = "root:x:0:0::/root:/bin/sh\nbroken\nanna:x:1000:1000::/home/anna:/bin/sh\n";
        assert_eq!(name_in(users, 0).as_deref(), Some("root"));
        assert_eq!(name_in(users, 1000).as_deref(), Some("anna"));
        assert_eq!(name_in(users, 1), None);
        assert_eq!(name(3_999_999_999), "3999999999");
    }
}
