//! A file of one piece: it appears once it is complete, or goes to standard output.

use std::{
    io::{self, IsTerminal as _},
    path::Path,
};

use tokio::{
    fs::File,
    io::{AsyncWriteExt as _, Stdout},
};

use crate::client::{
    checkouts::Checkouts,
    exit::{Failure, Stop},
    files::{Beside, Target},
    print,
};

/// A file that is being written.
#[derive(Debug)]
pub(crate) enum Out {
    File { target: Target, file: File, beside: Beside },
    Stdout(Stdout),
}

/// A file that is whole, and has not appeared.
#[derive(Debug)]
pub(crate) struct Whole(Option<(Target, Beside)>);

impl Out {
    /// Opens a file of this mode, or standard output. `what` names the content, and `flag` what names a file.
    pub(crate) fn open(
        path: Option<&Path>,
        mode: u32,
        checkouts: &Checkouts,
        what: &str,
        flag: &str,
    ) -> Result<Self, Failure> {
        let Some(path) = path else {
            if io::stdout().is_terminal() {
                return Err(Failure::usage(format!("{what} is not for a terminal"))
                    .hint(format!("name a file with `{flag}`, or redirect standard output")));
            }
            return Ok(Self::Stdout(tokio::io::stdout()));
        };
        let target = Target::prepare(path, checkouts)?;
        let (file, beside) = target.open(mode).map_err(|error| target.cannot_write(&error))?;
        Ok(Self::File { target, file: File::from_std(file), beside })
    }

    pub(crate) async fn write(&mut self, piece: &[u8]) -> Result<(), Stop> {
        match self {
            Self::File { target, file, .. } => {
                file.write_all(piece).await.map_err(|error| target.cannot_write(&error).into())
            }
            Self::Stdout(out) => print::written(out.write_all(piece).await),
        }
    }

    pub(crate) async fn end(self) -> Result<Whole, Stop> {
        match self {
            Self::File { target, mut file, beside } => match file.flush().await {
                Ok(()) => Ok(Whole(Some((target, beside)))),
                Err(error) => Err(target.cannot_write(&error).into()),
            },
            Self::Stdout(mut out) => print::written(out.flush().await).map(|()| Whole(None)),
        }
    }
}

impl Whole {
    /// Lets the file appear.
    pub(crate) fn appear(self) -> Result<(), Failure> {
        let Some((target, beside)) = self.0 else { return Ok(()) };
        beside.complete().map_err(|error| target.cannot_write(&error))
    }
}
