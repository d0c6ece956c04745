//! JSON for people.

use serde_json::{Deserializer, Serializer, ser::PrettyFormatter};

use crate::{
    client::exit::{Exit, Failure},
    names::printable_json,
};

/// Indents `text` and keeps the order of its keys, since readers know docker's order. Characters that could
/// drive a terminal or hide text are escaped.
pub(super) fn indented(text: &str, indent: &str) -> Result<String, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(Exit::Failed, format!("wharfd's answer is not valid JSON: {error}"))
    };
    let mut written = Vec::new();
    let mut from = Deserializer::from_str(text);
    let mut to = Serializer::with_formatter(&mut written, PrettyFormatter::with_indent(indent.as_bytes()));
    serde_transcode::transcode(&mut from, &mut to)
        .and_then(|()| from.end())
        .map_err(|error| failed(&error))?;
    String::from_utf8(written).map(|text| printable_json(&text)).map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_their_order() {
        let text = r#"[{"b":1,"a":[],"c":{"x":"é\u001b"}}]"#;
        let indented = indented(text, "  ").unwrap();
        assert_eq!(
            indented,
            "[\n  {\n    \"b\": 1,\n    \"a\": [],\n    \"c\": {\n      \"x\": \"é\\u001b\"\n    }\n  }\n]"
        );
    }

    #[test]
    fn nothing_drives_a_terminal() {
        let shown = indented("{\"x\u{9b}\":\"a\u{202e}b\"}", " ").unwrap();
        assert_eq!(shown, "{\n \"x\\u009b\": \"a\\u202eb\"\n}");
    }

    #[test]
    fn what_is_not_json_is_an_error() {
        assert!(indented("[{},}]", "  ").is_err());
        assert!(indented("[] []", "  ").is_err());
    }
}
