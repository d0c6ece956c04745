//! Images whose ONBUILD triggers copy from images with such triggers. BuildKit (0.33, 0.34) resolves the
//! images that triggers name until there are no new ones, and makes a new stage of each: if an image's
//! trigger copies from the image itself, this never ends, and takes more and more memory.

use std::collections::HashSet;

use crate::names::Reference;

/// No trigger copies from more images, and no reference is longer. Without these limits the time for a trigger would
/// grow with the square of its length.
const SOURCES_MAX: usize = 256;
const WORD_BYTES_MAX: usize = 512;

/// The images that copies and mounts of a trigger name; `None` if one depends on a variable, or if there are too many.
/// It finds at least those that BuildKit finds: quotes, escapes and comments within an instruction change nothing here.
fn sources(trigger: &str) -> Option<Vec<Reference>> {
    let lines = trigger.split(['\n', '\r']).filter(|line| !line.trim_start().starts_with('#'));
    let text: String = lines.flat_map(str::chars).filter(|c| !matches!(c, '\\' | '`' | '"' | '\'')).collect();
    let lower = text.to_ascii_lowercase();
    let mut found = Vec::new();
    for (count, (at, key)) in lower.match_indices("from=").enumerate() {
        let rest = text.get(at + key.len()..).unwrap_or_default();
        let begin = rest.get(..rest.floor_char_boundary(WORD_BYTES_MAX)).unwrap_or_default();
        let word = begin.split(|c: char| c.is_whitespace() || c == ',').next().unwrap_or_default();
        let is_cut = word.len() == begin.len() && begin.len() < rest.len();
        if word.contains('$') || is_cut || count == SOURCES_MAX {
            return None;
        }
        // Anything else than a reference is a stage's name, or an error.
        found.extend(Reference::parse(word).ok().map(Reference::tagged));
    }
    Some(found)
}

/// Whether triggers that copy from images may come round to an image again. `images` are the images of a build, each
/// by its full name and with its triggers.
pub(super) fn may_never_end<'a>(images: impl Iterator<Item = (&'a str, &'a [String])>) -> bool {
    let (mut names, mut named) = (HashSet::new(), HashSet::new());
    for (name, triggers) in images {
        let mut copies = false;
        for trigger in triggers {
            let Some(sources) = sources(trigger) else { return true };
            copies |= !sources.is_empty();
            named.extend(sources.iter().map(ToString::to_string));
        }
        if copies {
            names.insert(name);
        }
    }
    named.iter().any(|named| names.contains(&named.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn never_ends(images: &[(&str, &[&str])]) -> bool {
        let images: Vec<(&str, Vec<String>)> = images
            .iter()
            .map(|(name, triggers)| (*name, triggers.iter().map(|text| (*text).to_owned()).collect()))
            .collect();
        may_never_end(images.iter().map(|(name, triggers)| (*name, triggers.as_slice())))
    }

    #[test]
    fn triggers_that_copy_in_a_circle_are_found() {
        let own = "docker.io/library/a:latest";
        for trigger in [
            "COPY --from=a x y",
            "COPY --from=docker.io/library/a:latest x y",
            "copy --from=\"a\" x y",
            "COPY --fr\\om=a x y",
            "COPY --fr\\\nom=a x y",
            "COPY --fr\\\n# b\nom=a x y",
            "COPY --fr\\\r\n\r\nom=a x y",
            "RUN --mount=type=bind,target=/x,from=a true",
            "RUN --mount=target=/x,\"from=a\" true",
            "COPY --from=$x x y",
            "RUN --mount=from=${x} true",
        ] {
            assert!(never_ends(&[(own, &[trigger])]), "{trigger}");
            assert!(never_ends(&[(own, &["RUN true", trigger])]), "{trigger}");
        }
        let other = "docker.io/library/b:1";
        assert!(never_ends(&[(own, &["COPY --from=b:1 x y"]), (other, &["COPY --from=a x y"])]));
        assert!(never_ends(&[(own, &["COPY --from=b:1 x y"]), (other, &["COPY --from=c x y"])]));
    }

    /// It would take minutes to look at all of them.
    #[test]
    fn a_trigger_with_too_many_sources_is_not_looked_at() {
        let (one, many) = ("from=".repeat(200_000), "from=a ".repeat(150_000));
        for trigger in [format!("RUN {one}"), format!("RUN {many}")] {
            assert_eq!(sources(&trigger), None);
            assert!(never_ends(&[("docker.io/library/b:latest", &[&trigger])]));
        }
        let few = "from=a ".repeat(SOURCES_MAX);
        assert_eq!(sources(&few).unwrap().len(), SOURCES_MAX);
    }

    #[test]
    fn triggers_that_come_to_an_end_are_let_through() {
        let own = "docker.io/library/a:latest";
        for triggers in [
            &[] as &[&str],
            &["COPY . /app", "RUN make PATH=$PATH"],
            &["COPY --from=tools /x /y"],
            &["COPY --from=0 /x /y"],
            &["COPY --from=a:2 /x /y"],
        ] {
            assert!(!never_ends(&[(own, triggers)]), "{triggers:?}");
        }
        assert!(!never_ends(&[
            (own, &["COPY --from=b x y"]),
            ("docker.io/library/b:latest", &["RUN true"]),
            ("docker.io/library/c:latest", &["COPY --from=b x y"]),
        ]));
    }
}
