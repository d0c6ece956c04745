//! Counts the warnings that BuildKit's own frontend may have about a text. Each contains all of the text, in the
//! engine's memory.

use super::{
    CHECK, ReadingRules,
    lines::{Instruction, Version},
    parts, patterns,
};

/// The limit on the bytes of all warnings. A Dockerfile of 64 KiB has usually less than 2000 instructions and
/// variables.
const WARNED_BYTES_MAX: u64 = 128 << 20;

/// How many warnings there may be about an instruction, and at least its part of them: BuildKit has at most five about
/// the instruction as such. The keyword and the arguments are those of the instruction that a trigger contains.
pub(super) fn about(
    instruction: &Instruction,
    (keyword, arguments): (&[u8], &[u8]),
    (rules, version): (&ReadingRules, Version),
) -> u64 {
    if !rules.frontend.is_builtin() {
        // The frontend in the container bounds its warnings (`scripts/lib/frontend`).
        return 0;
    }
    if version < Version::V0_14 {
        return u64::from(instruction.has_empty_lines);
    }
    if !rules.has_checks {
        return 0;
    }
    let count = |text: &[u8], byte: u8| text.iter().filter(|other| **other == byte).count();
    let variables = |text: &[u8]| count(text, b'$');
    let words = || arguments.split(|byte| parts::is_blank(*byte)).filter(|word| !word.is_empty()).count();
    let mut warnings = 1 + variables(&instruction.text);
    if keyword == b"run" || patterns::NOT_EXPANDED.contains(&keyword) {
        // Only its flags are expanded.
        warnings -= variables(arguments);
    } else {
        let expanded = instruction.heredocs.iter().filter(|heredoc| heredoc.is_expanded);
        warnings += expanded.map(|heredoc| variables(&heredoc.content)).sum::<usize>();
    }
    warnings += match keyword {
        b"expose" | b"copy" | b"add" => words(),
        b"env" | b"arg" => count(arguments, b'='),
        _ => 0,
    };
    warnings as u64
}

/// Judges all warnings about a text of this many bytes.
pub(super) fn judge(warnings: u64, bytes: usize, version: Version) -> Result<(), String> {
    if warnings.saturating_mul(bytes as u64) <= WARNED_BYTES_MAX {
        return Ok(());
    }
    let kb = bytes / 1000;
    if version < Version::V0_14 {
        return Err(format!(
            "{warnings} instructions have empty lines in them, too many for a Dockerfile of {kb} kB: remove the empty \
             lines"
        ));
    }
    let (name, value) = CHECK;
    Err(format!(
        "the Dockerfile has {kb} kB, and there may be {warnings} warnings about it, each of which contains all of it: \
         the engine's own builder reads it only without its checks, with the build argument `{name}={value}`"
    ))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Frontend, Judge,
            tests::{base, judge},
        },
        *,
    };

    fn checked(version: (u32, u32)) -> ReadingRules {
        let frontend = Frontend::Builtin(Some(version));
        ReadingRules { frontend, has_checks: true, ..ReadingRules::default() }
    }

    fn padded(lines: &str, bytes: usize) -> Vec<u8> {
        let comment = format!("#{}\n", "x".repeat(98));
        format!("FROM x\n{lines}{}", comment.repeat(bytes / 100)).into_bytes()
    }

    /// Their number counts, and the length of the text that each contains.
    #[test]
    fn warnings_are_bounded_with_the_text_that_they_contain() {
        let many = "aa ".repeat(1500);
        for lines in [
            "ENV a b\n".repeat(1500),
            "env a\n".repeat(1500),
            format!("ENV a={}\n", "$b".repeat(1500)),
            format!("ENV {}\n", "a=b ".repeat(1500)),
            format!("EXPOSE {many}\n"),
            format!("COPY {many} /\n"),
            format!("COPY <<E /\n{}\nE\n", "$b".repeat(1500)),
            format!("ONBUILD ENV a={}\n", "$b".repeat(1500)),
            format!("RUN --mount=target={} true\n", "$b".repeat(1500)),
        ] {
            let (short, long) = (padded(&lines, 50_000), padded(&lines, 100_000));
            let line = &lines[..20.min(lines.len())];
            assert_eq!(judge(&short, checked((0, 33))), Ok(()), "{line}");
            let refused = judge(&long, checked((0, 33))).unwrap_err();
            assert!(refused.contains("only without its checks"), "{line}: {refused}");
            assert!(refused.contains("BUILDKIT_DOCKERFILE_CHECK=skip=all"), "{line}: {refused}");
            for rules in [
                // BuildKit 0.13 has no checks, and the frontend in the container bounds its warnings.
                checked((0, 13)),
                ReadingRules { frontend: Frontend::Contained, ..checked((0, 33)) },
                ReadingRules { has_checks: false, ..checked((0, 33)) },
            ] {
                assert_eq!(judge(&long, rules), Ok(()), "{line}");
            }
        }
    }

    #[test]
    fn the_triggers_of_an_image_count_in_each_stage() {
        let judge = Judge::new(checked((0, 33)));
        let trigger = format!("ENV a={}", "$b".repeat(100));
        judge.admit(&base(&[&trigger], &[])).unwrap();
        let stages = |count: usize| padded(&"FROM y\n".repeat(count), 100_000);
        assert_eq!(judge.read("Dockerfile", stages(5)), Ok(()));
        let refused = judge.read("Dockerfile", stages(20)).unwrap_err();
        assert!(refused.contains("only without its checks"), "{refused}");
    }

    /// BuildKit 0.13 warns of empty lines, and no argument turns that off.
    #[test]
    fn empty_lines_in_instructions_are_bounded() {
        let lines = "CMD a\\\n\nb\n".repeat(1500);
        let (short, long) = (padded(&lines, 50_000), padded(&lines, 100_000));
        for has_checks in [false, true] {
            let rules = || ReadingRules { has_checks, ..checked((0, 13)) };
            assert_eq!(judge(&short, rules()), Ok(()));
            let refused = judge(&long, rules()).unwrap_err();
            assert!(refused.contains("1500 instructions have empty lines"), "{refused}");
        }
        assert_eq!(judge(&long, ReadingRules { has_checks: false, ..checked((0, 33)) }), Ok(()));
        // Between instructions, and beside comments, they cost nothing.
        for lines in ["CMD a\n\n".repeat(1500), "CMD a\\\n# b\nb\n".repeat(1500)] {
            assert_eq!(judge(&padded(&lines, 100_000), checked((0, 13))), Ok(()));
        }
    }
}
