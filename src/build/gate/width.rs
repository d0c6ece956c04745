//! Limits how many steps can run, or look up a user, at the same time.
//!
//! Each `RUN` that runs takes a thread of the engine, two processes, and one of the 1023 ports that a bridge has in the
//! kernel: when these are gone, every job's steps fail.
//!
//! Before a step runs, BuildKit opens `/etc/passwd` and `/etc/group` of the step's file system in the
//! engine's own process (`executor/oci.GetUser`; for `COPY --chown`, `llbsolver/ops.readUser`). If an earlier
//! step or an image has made one of them a pipe, the open waits for ever (up to BuildKit 0.33), even when the
//! build ends. It blocks a thread of the engine, and the engine dies at 10,000 threads.
//!
//! Steps that wait for one another cannot run, or be stuck, at the same time. So these steps are
//! arranged in chains, in which each step waits for the one before it, and the number of chains in a graph is
//! limited.

use std::collections::BTreeMap;

use bollard_buildkit_proto::pb::{ChownOpt, FileOp, Op, file_action::Action, op, user_opt::User};

use super::Refusal;
use crate::fault::{Fault, Reason};

/// A Dockerfile with a hundred stages is rare, and few of its stages depend on nothing.
const CHAINS_MAX: usize = 64;

/// The steps of a graph, in chains.
#[derive(Debug, Default)]
pub(super) struct Width {
    /// The last step up to each operation, by the operation's digest: its chain, and its position there.
    last: BTreeMap<String, Option<Place>>,
    /// The number of steps in each chain.
    chains: Vec<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    chain: usize,
    length: usize,
}

impl Width {
    /// Adds an operation with this digest; its inputs were added earlier (`client/llb` in BuildKit, `marshal`).
    pub(super) fn add(&mut self, digest: String, op: &Op) {
        let before: Vec<Place> =
            op.inputs.iter().filter_map(|input| *self.last.get(&input.digest)?).collect();
        // Prefer the end of a chain; elsewhere another step has already continued the chain.
        let ends = |place: &&Place| self.chains.get(place.chain) == Some(&place.length);
        let mut last = before.iter().find(ends).or(before.first()).copied();
        if counts(op) {
            let place = match last.filter(|place| ends(&place)) {
                Some(Place { chain, length }) => Place { chain, length: length + 1 },
                None => Place { chain: self.chains.len(), length: 1 },
            };
            match self.chains.get_mut(place.chain) {
                Some(length) => *length = place.length,
                None => self.chains.push(place.length),
            }
            last = Some(place);
        }
        self.last.insert(digest, last);
    }

    /// Refuses a graph with too many chains.
    pub(super) fn judge(&self) -> Result<(), Refusal> {
        if self.chains.len() <= CHAINS_MAX {
            return Ok(());
        }
        let text = format!(
            "the build graph is refused: {} of its steps could run, or look up a user in `/etc/passwd`, at the same time; \
             at most {CHAINS_MAX} may",
            self.chains.len()
        );
        let hint = "build single stages, or let stages build on one another";
        Err(Fault::new(Reason::GraphDenied, text).hint(hint).into())
    }
}

/// Whether a step runs a process, or BuildKit opens files of its file system to look up a user.
fn counts(op: &Op) -> bool {
    match &op.op {
        Some(op::Op::Exec(_)) => true,
        Some(op::Op::File(FileOp { actions })) => actions.iter().any(|action| {
            let owner = match &action.action {
                Some(Action::Copy(copy)) => &copy.owner,
                Some(Action::Mkfile(file)) => &file.owner,
                Some(Action::Mkdir(directory)) => &directory.owner,
                Some(Action::Rm(_) | Action::Symlink(_)) | None => &None,
            };
            owner.as_ref().is_some_and(is_by_name)
        }),
        Some(op::Op::Source(_) | op::Op::Build(_) | op::Op::Merge(_) | op::Op::Diff(_)) | None => false,
    }
}

fn is_by_name(owner: &ChownOpt) -> bool {
    let mut users = [&owner.user, &owner.group].into_iter().flatten();
    users.any(|user| matches!(user.user, Some(User::ByName(_))))
}

#[cfg(test)]
mod tests {
    use bollard_buildkit_proto::pb::{
        ExecOp, FileAction, FileActionCopy, Input, Meta, NamedUserOpt, UserOpt,
    };
    use prost::Message as _;

    use super::{super::definition::digest, *};

    /// A step that runs as `user` after other steps; `name` makes it unique.
    fn step(name: &str, user: &str, inputs: &[&Op]) -> Op {
        let meta = Meta { user: user.into(), args: vec![name.into()], ..Meta::default() };
        let exec = ExecOp { meta: Some(meta), ..ExecOp::default() };
        of(op::Op::Exec(exec), inputs)
    }

    fn of(op: op::Op, inputs: &[&Op]) -> Op {
        let inputs = inputs.iter().map(|input| Input { digest: digest(&input.encode_to_vec()), index: 0 });
        Op { op: Some(op), inputs: inputs.collect(), ..Op::default() }
    }

    fn chains(ops: &[Op]) -> usize {
        let mut width = Width::default();
        for op in ops {
            width.add(digest(&op.encode_to_vec()), op);
        }
        width.chains.len()
    }

    #[test]
    fn steps_that_wait_for_one_another_are_one_chain() {
        let mut ops = vec![step("0", "", &[])];
        for number in 1..1000 {
            let next = step(&number.to_string(), "", &[ops.last().unwrap()]);
            ops.push(next);
        }
        assert_eq!(chains(&ops), 1);
        // An operation that does not count does not break a chain.
        let between = of(op::Op::File(FileOp::default()), &[&ops[999]]);
        let behind = step("behind", "app", &[&between]);
        ops.extend([between, behind]);
        assert_eq!(chains(&ops), 1);
    }

    #[test]
    fn stages_that_go_on_from_one_are_as_many_chains() {
        for (user, expected) in [("", 100), ("root", 100), ("1000:app", 100), ("0:0", 100)] {
            let base = step("base", "", &[]);
            let stages = (0..100).map(|number| step(&number.to_string(), user, &[&base]));
            let ops: Vec<_> = std::iter::once(base.clone()).chain(stages).collect();
            assert_eq!(chains(&ops), expected, "{user}");
        }
        let mut width = Width::default();
        for number in 0..=CHAINS_MAX {
            assert!(width.judge().is_ok());
            let op = step(&number.to_string(), "", &[]);
            width.add(digest(&op.encode_to_vec()), &op);
        }
        assert!(width.judge().is_err());
    }

    #[test]
    fn one_that_gathers_others_goes_on_from_one_of_them() {
        let stages = ["a", "b", "c"].map(|name| step(name, "", &[]));
        let gathers = step("all", "", &stages.each_ref());
        let after = step("after", "", &[&stages[0], &gathers]);
        assert_eq!(chains(&[stages.to_vec(), vec![gathers, after]].concat()), 3);
    }

    #[test]
    fn owners_by_name_are_looked_up() {
        let copies = |user: User| {
            let owner = Some(ChownOpt { user: None, group: Some(UserOpt { user: Some(user) }) });
            let copy = FileActionCopy { owner, ..FileActionCopy::default() };
            let action = FileAction { action: Some(Action::Copy(copy)), ..FileAction::default() };
            chains(&[of(op::Op::File(FileOp { actions: vec![action] }), &[])])
        };
        assert_eq!(copies(User::ByName(NamedUserOpt { name: "app".into(), input: 0 })), 1);
        assert_eq!(copies(User::ById(7)), 0);
    }
}
