//! The rules for an operation on files: a copy, a directory or a here-document.
//!
//! BuildKit begins all actions of an operation together, each with some goroutines and a mount, though most wait for the
//! one before; it looks through all earlier ones for each (`ops.FileOpSolver`). A `COPY` of 10,000 sources took 300 MB of
//! Engine 29.

use bollard_buildkit_proto::pb::{
    FileAction, FileActionCopy, FileActionMkDir, FileActionMkFile, FileOp, file_action::Action,
};

use super::{Refusal, refuse};

/// The most actions of an operation, and of a graph. A `COPY` has one for each of its sources.
const OF_OPERATION_MAX: usize = 1000;
const ACTIONS_MAX: usize = 4000;

/// The limit on a mode in words (`--chmod=u+x`), which BuildKit applies word by word to each file.
const MODE_BYTES_MAX: usize = 256;

/// The actions of a graph.
#[derive(Debug, Default)]
pub(super) struct Actions(usize);

// No pattern here ends in `..`: a field that a newer BuildKit adds has to be judged before this compiles.
impl Actions {
    /// Judges an operation with so many inputs.
    pub(super) fn judge(&mut self, file: &FileOp, inputs: usize) -> Result<(), Refusal> {
        let FileOp { actions } = file;
        self.0 += actions.len();
        for (count, max, of) in
            [(actions.len(), OF_OPERATION_MAX, "a `COPY` or `ADD`"), (self.0, ACTIONS_MAX, "a build")]
        {
            if count > max {
                return Err(refuse(format!(
                    "{of} may name at most {max} sources to copy: copy a directory instead of single files"
                )));
            }
        }
        let results = inputs.saturating_add(actions.len());
        for FileAction { input, secondary_input, output, action } in actions {
            let exists = |of: i64| of == -1 || usize::try_from(of).is_ok_and(|of| of < results);
            if ![*input, *secondary_input, *output].into_iter().all(exists) {
                return Err(refuse("an action on files has an input that does not exist"));
            }
            match action {
                Some(Action::Copy(copied)) => copy(copied)?,
                // `WORKDIR`, and a here-document, in the step's own files. `width` counts owners.
                Some(Action::Mkdir(FileActionMkDir {
                    path: _,
                    mode: _,
                    make_parents: _,
                    owner: _,
                    timestamp: _,
                })) => {}
                Some(Action::Mkfile(FileActionMkFile {
                    path: _,
                    mode: _,
                    data: _,
                    owner: _,
                    timestamp: _,
                })) => {}
                Some(Action::Rm(_) | Action::Symlink(_)) | None => {
                    return Err(refuse("it does something to files that no Dockerfile can ask for"));
                }
            }
        }
        Ok(())
    }
}

fn copy(copy: &FileActionCopy) -> Result<(), Refusal> {
    let FileActionCopy {
        // `patterns` counts these, and `unpack` what is unpacked.
        src: _,
        include_patterns: _,
        exclude_patterns: _,
        attempt_unpack_docker_compatibility: _,
        allow_wildcard: _,
        required_paths,
        mode_str,
        // The step's own files.
        dest: _,
        mode: _,
        timestamp: _,
        create_dest_path: _,
        follow_symlink: _,
        dir_copy_contents: _,
        allow_empty_wildcard: _,
        always_replace_existing_dest_paths: _,
        // `width` counts owners.
        owner: _,
    } = copy;
    if mode_str.len() > MODE_BYTES_MAX {
        return Err(refuse(format!(
            "`--chmod` has more than {MODE_BYTES_MAX} bytes: give the mode in octal"
        )));
    }
    // `--parents` without wildcards requires its one path.
    if required_paths.len() > 1 {
        return Err(refuse("a copy requires several paths, which no Dockerfile can ask for"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bollard_buildkit_proto::pb::{FileActionRm, FileActionSymlink, Input, Op, op};
    use prost::Message as _;

    use super::{
        super::{
            definition,
            tests::{exec, judge, op},
        },
        *,
    };

    fn action(action: Action) -> FileAction {
        FileAction { input: 0, secondary_input: -1, output: -1, action: Some(action) }
    }

    fn copied() -> FileAction {
        action(Action::Copy(FileActionCopy::default()))
    }

    /// Whether an operation with these actions on a step's files passes.
    fn passes(actions: Vec<FileAction>) -> bool {
        all(vec![actions])
    }

    fn all(operations: Vec<Vec<FileAction>>) -> bool {
        let step = op(op::Op::Exec(exec()));
        let inputs = vec![Input { digest: definition::digest(&step.encode_to_vec()), index: 0 }];
        let file = |actions| Op { inputs: inputs.clone(), ..op(op::Op::File(FileOp { actions })) };
        let files: Vec<_> = operations.into_iter().map(file).collect();
        judge(&[vec![step], files].concat()).is_ok()
    }

    #[test]
    fn actions_are_those_of_a_dockerfile() {
        for good in [
            copied(),
            action(Action::Mkdir(FileActionMkDir::default())),
            action(Action::Mkfile(FileActionMkFile::default())),
            action(Action::Copy(FileActionCopy { mode_str: "u+x,g=r".into(), ..FileActionCopy::default() })),
            action(Action::Copy(FileActionCopy {
                required_paths: vec!["a".into()],
                ..FileActionCopy::default()
            })),
        ] {
            assert!(passes(vec![good.clone()]), "{good:?}");
        }
        for bad in [
            FileAction { action: None, ..copied() },
            FileAction { input: 2, ..copied() },
            FileAction { input: -2, ..copied() },
            FileAction { secondary_input: -2, ..copied() },
            FileAction { output: -2, ..copied() },
            action(Action::Rm(FileActionRm::default())),
            action(Action::Symlink(FileActionSymlink::default())),
            action(Action::Copy(FileActionCopy { mode_str: "u+x,".repeat(65), ..FileActionCopy::default() })),
            action(Action::Copy(FileActionCopy {
                required_paths: vec!["a".into(); 2],
                ..FileActionCopy::default()
            })),
        ] {
            assert!(!passes(vec![bad.clone()]), "{bad:?}");
        }
    }

    #[test]
    fn a_copy_has_not_too_many_sources() {
        assert!(passes(vec![copied(); OF_OPERATION_MAX]));
        assert!(!passes(vec![copied(); OF_OPERATION_MAX + 1]));
        let to = |number: usize| {
            action(Action::Copy(FileActionCopy { dest: number.to_string(), ..FileActionCopy::default() }))
        };
        let operations = (0..ACTIONS_MAX / OF_OPERATION_MAX).map(|number| vec![to(number); OF_OPERATION_MAX]);
        let mut many: Vec<_> = operations.collect();
        // An operation that appears twice is one.
        many.extend(many.clone());
        assert!(all(many.clone()));
        many.push(vec![copied()]);
        assert!(!all(many));
    }
}
