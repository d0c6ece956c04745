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

/// Whether the source of a copy has characters that are wildcards (`filepath.Match`), if it may have some.
pub(super) fn has_wildcards(copy: &FileActionCopy) -> bool {
    copy.src.contains(['*', '?', '[', '\\'])
}
