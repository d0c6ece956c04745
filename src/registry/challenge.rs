//! A registry's challenges in `WWW-Authenticate` (RFC 9110, 11.6.1).

/// The most challenges read from one answer, and the most parameters of each. A real registry sends one
/// challenge with three parameters.
const PARTS_MAX: usize = 32;

/// The credentials that a registry requires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A username and password.
    Basic,
    /// A token from the server at `realm`.
    Bearer { realm: String, service: Option<String> },
}

/// The known challenges in a header's values, Bearer first, in the engine's order of preference.
pub(super) fn challenges<'a>(values: impl Iterator<Item = &'a str>) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = values.take(PARTS_MAX).flat_map(of_value).collect();
    found.sort_by_key(|challenge| *challenge == Challenge::Basic);
    found
}

fn of_value(value: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut rest = value;
    for _ in 0..PARTS_MAX {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (scheme, after) = token(rest);
        if scheme.is_empty() {
            break;
        }
        let parameters;
        (parameters, rest) = parameters_of(after);
        let of = |name: &str| {
            parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
        };
        if scheme.eq_ignore_ascii_case("basic") {
            found.push(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = of("realm")
        {
            found.push(Challenge::Bearer { realm, service: of("service") });
        }
    }
    found
}

/// `name=value` pairs, up to the next scheme.
fn parameters_of(mut rest: &str) -> (Vec<(String, String)>, &str) {
    let mut found = Vec::new();
    for _ in 0..PARTS_MAX {
        let trimmed = rest.trim_start_matches([' ', '\t', ',']);
        let (name, after) = token(trimmed);
        let Some(after) = after.trim_start().strip_prefix('=').filter(|_| !name.is_empty()) else { break };
        let after = after.trim_start();
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted_text(quoted),
            None => {
                let end = after.find([',', ' ', '\t']).unwrap_or(after.len());
                let (value, after) = after.split_at(end);
                (value.to_owned(), after)
            }
        };
        found.push((name.to_owned(), value));
        rest = after;
    }
    (found, rest)
}

fn token(text: &str) -> (&str, &str) {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    text.split_at(text.find(|c| !is_token(c)).unwrap_or(text.len()))
}

/// The text before the closing quote, and the rest after it.
fn quoted_text(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, text.get(at + 1..).unwrap_or_default()),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod unit {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>) -> Challenge {
        Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned) }
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let read = |values: &[&str]| challenges(values.iter().copied());
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="a:b:pull,push""#;
        assert_eq!(read(&[hub]), [bearer("https://auth.docker.io/token", Some("registry.docker.io"))]);
        assert_eq!(read(&[r#"Basic realm="Registry Realm""#]), [Challenge::Basic]);
        assert_eq!(read(&["BASIC"]), [Challenge::Basic]);
        let both = r#"Basic realm="x", Bearer realm=https://t/a , service = "s\"q""#;
        assert_eq!(read(&[both]), [bearer("https://t/a", Some("s\"q")), Challenge::Basic]);
        assert_eq!(read(&["Basic", "Bearer realm=\"r\""]), [bearer("r", None), Challenge::Basic]);
        assert_eq!(
            read(&["Bearer service=\"s\"", "Negotiate", "", "=,=\"", "Bearer realm=\"open"]),
            [bearer("open", None)]
        );
    }
}
