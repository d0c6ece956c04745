//! Limits how many steps of a graph wait for one another.
//!
//! For a step BuildKit's solver goes through all those below it, so that its time grows with the square of their number:
//! chains of 1000, 2000 and 5000 `RUN`s cost Engine 26.1 1, 4 and 33 s of a processor, and the newest 1, 2 and 21 s.
//! A cancel does not end that. 9000 steps beside one another cost 2 s, and a graph has at most the 16 MiB of a message.

use std::collections::BTreeMap;

use bollard_buildkit_proto::pb::Op;

use super::{Refusal, refuse};

/// No engine can use an image of more than 500 layers (the kernel's overlays); stages that copy from one another can
/// have some more.
const STEPS_MAX: usize = 1000;

/// The chains of a graph.
#[derive(Debug, Default)]
pub(super) struct Chains {
    /// The number of operations in the longest chain that ends in each, by the operation's digest.
    lengths: BTreeMap<String, usize>,
}

impl Chains {
    /// Adds an operation. Its inputs were added earlier, as in all graphs of BuildKit's (`client/llb`, `marshal`): who
    /// judges or changes a graph in its order relies on that.
    pub(super) fn add(&mut self, digest: &str, op: &Op) -> Result<(), Refusal> {
        let mut before = 0;
        for input in &op.inputs {
            let length = self.lengths.get(&input.digest);
            before = before.max(*length.ok_or_else(|| refuse("an operation comes before its input"))?);
        }
        let length = before + 1;
        self.lengths.insert(digest.to_owned(), length);
        // The source at the beginning, and the end, which only points at the result, are not steps.
        if length > STEPS_MAX + 2 {
            return Err(refuse(format!(
                "it has a chain of more than {STEPS_MAX} steps: merge steps, or build a part of the \
                 Dockerfile as an image of its own"
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bollard_buildkit_proto::pb::{FileOp, Input, Platform, op};
    use prost::Message as _;

    use super::{
        super::{definition::digest, tests::judge},
        *,
    };
    fn step(number: usize, inputs: &[String]) -> Op {
        let inputs = inputs.iter().map(|digest| Input { digest: digest.clone(), index: 0 });
        // Anything that makes it unique.
        let platform = Some(Platform { os_version: number.to_string(), ..Platform::default() });
        Op { op: Some(op::Op::File(FileOp::default())), inputs: inputs.collect(), platform, ..Op::default() }
    }

    fn graph(count: usize, inputs: impl Fn(&[String]) -> Vec<String>) -> Vec<Op> {
        let (mut ops, mut digests) = (Vec::new(), Vec::new());
        for number in 0..count {
            let op = step(number, &inputs(&digests));
            digests.push(digest(&op.encode_to_vec()));
            ops.push(op);
        }
        ops
    }

    #[test]
    fn an_operation_comes_after_its_inputs() {
        let ops = graph(2, |digests| digests.last().cloned().into_iter().collect());
        assert!(judge(&ops).is_ok());
        for wrong in [vec![ops[1].clone(), ops[0].clone()], vec![ops[1].clone()]] {
            let Err(Refusal::Refused(why)) = judge(&wrong) else { panic!("it is let through") };
            assert!(why.text().contains("comes before its input"), "{why}");
        }
    }

    #[test]
    fn a_graph_has_no_endless_chain() {
        let last = |digests: &[String]| digests.last().cloned().into_iter().collect();
        assert!(judge(&graph(STEPS_MAX + 2, last)).is_ok());
        let Err(Refusal::Refused(why)) = judge(&graph(STEPS_MAX + 3, last)) else {
            panic!("it is let through")
        };
        assert!(why.text().contains("a chain of more than 1000 steps"), "{why}");
        // Each waits for two, one of which has a long chain below it.
        let both = |digests: &[String]| digests.first().into_iter().chain(digests.last()).cloned().collect();
        assert!(judge(&graph(STEPS_MAX + 3, both)).is_err());
        let first = |digests: &[String]| digests.first().cloned().into_iter().collect();
        assert!(judge(&graph(5 * STEPS_MAX, first)).is_ok());
    }
}
