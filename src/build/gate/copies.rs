//! The copies of an operation.

use bollard_buildkit_proto::pb::{FileActionCopy, Op, file_action::Action, op};

/// Each copy of an operation, and the digest of the operation from which it copies; `None` if that is this one.
pub(super) fn copies(op: &Op) -> impl Iterator<Item = (&FileActionCopy, Option<&str>)> {
    let actions = match &op.op {
        Some(op::Op::File(file)) => file.actions.as_slice(),
        _ => &[],
    };
    actions.iter().filter_map(|action| {
        let Some(Action::Copy(copy)) = &action.action else { return None };
        Some((copy, input(op, action.secondary_input)))
    })
}

/// The digest of an operation's input; `None` for a number that is none.
pub(super) fn input(op: &Op, number: i64) -> Option<&str> {
    let input = usize::try_from(number).ok().and_then(|number| op.inputs.get(number));
    input.map(|input| input.digest.as_str())
}

/// The characters of wildcards (`filepath.Match`).
pub(super) const WILDCARDS: [char; 4] = ['*', '?', '[', '\\'];

/// Whether the source of a copy has wildcards, if it may have some.
pub(super) fn has_wildcards(copy: &FileActionCopy) -> bool {
    copy.src.contains(WILDCARDS)
}

/// The wildcards and patterns of a copy. BuildKit looks up a plain path without a walk.
pub(super) fn patterns(copy: &FileActionCopy) -> impl Iterator<Item = &str> {
    let wild = (copy.allow_wildcard && has_wildcards(copy)).then_some(&copy.src);
    let patterns = wild.into_iter().chain(&copy.include_patterns).chain(&copy.exclude_patterns);
    patterns.map(String::as_str)
}

/// The cost of a `**`, in bytes of other text: a regular expression's `(.*/)?`.
pub(super) const ANY_DIRECTORIES: usize = 8;

/// What it costs to match a path: BuildKit goes through a class (`[…]`) for each byte of a name, and through all of a
/// pattern's regular expression for each byte of a path.
pub(super) fn cost(pattern: &str) -> usize {
    pattern.len().saturating_add(pattern.matches("**").count().saturating_mul(ANY_DIRECTORIES))
}
