//! Templates that make a job's or a run's name from a token's claims.
//!
//! `{NAME}` stands for the claim NAME, `{/A/B}` for a claim within others (a JSON pointer, RFC 6901). Everything in a
//! claim but letters, digits, `-`, `.`, `_` and `~` is percent-encoded, so that no claim can look like two. `{+NAME}`
//! keeps the slashes too; a template may have one of them. Both as in RFC 6570.

use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::Value;

use crate::names::printable;

/// A template, checked: different claims never make the same text.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Claim { pointer: String, name: String, keeps_slashes: bool },
}

/// The reason why a token's claims do not fill a template.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum ClaimError {
    #[error("has no claim `{0}`")]
    Absent(String),
    #[error("has a claim `{0}` that is neither text nor a whole number, or is empty")]
    Kind(String),
}

impl Template {
    /// The text that `claims`, an object, make.
    pub fn fill(&self, claims: &Value) -> Result<String, ClaimError> {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Claim { pointer, name, keeps_slashes } => {
                    let claim = claims.pointer(pointer).ok_or_else(|| ClaimError::Absent(name.clone()))?;
                    let value = plain(claim).ok_or_else(|| ClaimError::Kind(name.clone()))?;
                    encode(&value, *keeps_slashes, &mut text);
                }
            }
        }
        Ok(text)
    }
}

/// A claim's text, if it is text or a whole number.
fn plain(claim: &Value) -> Option<String> {
    match claim {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
        Value::Null
        | Value::Bool(_)
        | Value::String(_)
        | Value::Number(_)
        | Value::Array(_)
        | Value::Object(_) => None,
    }
}

fn encode(value: &str, keeps_slashes: bool, into: &mut String) {
    for byte in value.bytes() {
        if is_unreserved(byte) || (keeps_slashes && byte == b'/') {
            into.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(into, "%{byte:02X}");
        }
    }
}

/// As in RFC 3986, 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

impl TryFrom<String> for Template {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let wrong = |why: &str| Err(format!("`{}` is not a template of claims: {why}", printable(&text)));
        let (mut parts, mut rest) = (Vec::new(), text.as_str());
        while !rest.is_empty() {
            let (literal, after) = rest.split_once('{').map_or((rest, None), |(one, two)| (one, Some(two)));
            if literal.contains('}') || literal.chars().any(char::is_control) {
                return wrong("`}` without `{`, or a control character");
            }
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.to_owned()));
            }
            let Some(after) = after else { break };
            let Some((claim, after)) = after.split_once('}') else { return wrong("`{` without `}`") };
            let (name, keeps_slashes) = claim.strip_prefix('+').map_or((claim, false), |name| (name, true));
            if name.is_empty() || name.contains('{') {
                return wrong("write a claim's name between `{` and `}`");
            }
            let pointer = match name.strip_prefix('/') {
                Some(_) => name.to_owned(),
                None => format!("/{}", name.replace('~', "~0").replace('/', "~1")),
            };
            parts.push(Part::Claim { pointer, name: name.to_owned(), keeps_slashes });
            rest = after;
        }
        let claims = parts.iter().filter(|part| matches!(part, Part::Claim { .. })).count();
        let open =
            parts.iter().filter(|part| matches!(part, Part::Claim { keeps_slashes: true, .. })).count();
        if claims == 0 {
            return wrong("it names no claim, so every token would make the same name");
        }
        if open > 1 {
            return wrong("only one claim may keep its slashes, or two could be taken for others");
        }
        let ends = |part: &Part| match part {
            Part::Literal(literal) => literal.bytes().any(|byte| !is_unreserved(byte) && byte != b'%'),
            Part::Claim { .. } => false,
        };
        let apart = parts.windows(3).all(|three| match three {
            [Part::Claim { .. }, between, Part::Claim { .. }] => ends(between),
            _ => true,
        });
        let touching = parts.windows(2).any(|two| two.iter().all(|part| matches!(part, Part::Claim { .. })));
        if touching || !apart {
            return wrong("put a `/` or the like between two claims, or they could be taken for others");
        }
        Ok(Self(parts))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template(text: &str) -> Result<Template, String> {
        text.to_owned().try_into()
    }

    #[test]
    fn claims_fill_it_and_none_can_look_like_two() {
        let claims = json!({
            "project_path": "acme/app", "ref": "feature/x y", "n": 42, "a/b": "odd",
            "kubernetes.io": {"pod": {"uid": "u-1"}},
        });
        for (text, filled) in [
            ("{+project_path}/{ref}", "acme/app/feature%2Fx%20y"),
            ("{project_path}", "acme%2Fapp"),
            ("ci/{n}", "ci/42"),
            ("{/kubernetes.io/pod/uid}", "u-1"),
            ("{a/b}", "odd"),
        ] {
            assert_eq!(template(text).unwrap().fill(&claims).unwrap(), filled, "{text}");
        }
        let percent = template("{a}/{b}").unwrap();
        let filled = |a: &str, b: &str| percent.fill(&json!({"a": a, "b": b})).unwrap();
        assert_ne!(filled("x/y", "z"), filled("x", "y/z"));
        assert_ne!(filled("x%2Fy", "z"), filled("x/y", "z"));
        assert!(
            filled("*", "#\n").chars().all(|c| !"*#\n".contains(c)),
            "patterns and runs keep their marks"
        );
    }

    #[test]
    fn what_is_no_claim_fills_nothing() {
        let of = |claims: Value| template("{a}").unwrap().fill(&claims);
        assert_eq!(of(json!({})), Err(ClaimError::Absent("a".into())));
        for odd in [json!(null), json!(true), json!(1.5), json!(["x"]), json!({"x": 1}), json!("")] {
            assert_eq!(of(json!({ "a": odd })), Err(ClaimError::Kind("a".into())));
        }
    }

    #[test]
    fn a_template_that_could_mix_claims_up_is_none() {
        for odd in ["", "job", "{}", "{a", "a}", "{a}{b}", "{a}-{b}", "{+a}/{+b}", "{a{b}}", "{a}\n"] {
            assert!(template(odd).is_err(), "{odd}");
        }
        for good in ["{a}", "x/{+a}/y/{b}", "{a}:{b}", "{a}-x/{b}"] {
            assert!(template(good).is_ok(), "{good}");
        }
    }
}
