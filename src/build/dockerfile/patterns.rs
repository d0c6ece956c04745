//! `${NAME#PATTERN}` and `${NAME%PATTERN}`: BuildKit 0.13 (Docker Engine 26.1) looks at the first byte of the
//! pattern, and ends the engine if the pattern is empty (`shell.Lex`, `processDollar`).

/// The keywords of instructions in which BuildKit replaces no variables.
pub(super) const NOT_EXPANDED: [&[u8]; 5] = [b"cmd", b"entrypoint", b"shell", b"healthcheck", b"maintainer"];

/// The first `${…` in a text whose pattern may be empty. `may_be_empty` says whether a variable may be replaced
/// by nothing.
pub(super) fn empty(text: &[u8], may_be_empty: impl Fn(&[u8]) -> bool) -> Option<&[u8]> {
    let begins = text.windows(2).enumerate().filter(|(_, two)| *two == b"${").map(|(at, _)| at);
    for at in begins {
        let Some(rest) = text.get(at + 2..) else { continue };
        let after = rest.get(name(rest)..).unwrap_or_default();
        let after = after.strip_prefix(b":").unwrap_or(after);
        let Some((b'#' | b'%', pattern)) = after.split_first() else { continue };
        if !has_some(pattern, &may_be_empty) {
            let end = text.len().min(at + 32);
            return text.get(at..end);
        }
    }
    None
}

/// The length of a variable's name. Its letters need not be ASCII.
pub(super) fn name(text: &[u8]) -> usize {
    match text.first() {
        Some(b'@' | b'*' | b'#' | b'?' | b'-' | b'$' | b'!') => 1,
        Some(b'0'..=b'9') => text.iter().take_while(|byte| byte.is_ascii_digit()).count(),
        _ => text.iter().take_while(|byte| is_name(**byte)).count(),
    }
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

/// Whether a pattern surely has a character.
fn has_some(mut pattern: &[u8], may_be_empty: impl Fn(&[u8]) -> bool) -> bool {
    loop {
        let Some((first, rest)) = pattern.split_first() else { return false };
        pattern = rest;
        match first {
            b'}' => return false,
            b'\'' | b'"' => {}
            b'$' if rest.starts_with(b"{") => return false,
            b'$' => {
                let (name, rest) = rest.split_at_checked(name(rest)).unwrap_or_default();
                if name.is_empty() || !may_be_empty(name) {
                    return true;
                }
                pattern = rest;
            }
            _ => return true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_patterns_with_a_character_are_let_through() {
        let unset = |name: &[u8]| name == b"e";
        for text in [
            "${a#}",
            "${a%}",
            "${a:#}",
            "x ${a:%} y",
            "${a#''}",
            "${a#\"\"}",
            "${a#$e}",
            "${a%\"$e$e\"}",
            "${a#${b}}",
            "${a%",
            "${#%}",
            "${1#}",
            "${\u{e9}#}",
            "\"${a#\"",
            "${#}${a#}",
            "${%}",
        ] {
            assert!(empty(text.as_bytes(), unset).is_some(), "{text}");
        }
        for text in [
            "", "${a}", "${a#x}", "${a##}", "${a%%.*}", "${a#$b}", "${a#'x'}", "${a:-}", "$a#", "${a/#/}",
            "${#}", "${a#\\}}", "${a#$}",
        ] {
            assert!(empty(text.as_bytes(), unset).is_none(), "{text}");
        }
    }
}
