//! `wharf save`.

use std::{
    io::{self, IsTerminal as _},
    path::Path,
};

use tokio::{
    fs::File,
    io::{AsyncWriteExt as _, Stdout},
};

use super::{Call, display, display::Display};
use crate::{
    client::{
        args::SaveArgs,
        exit::{Failure, Stop},
        files::{self, Beside},
        options::given,
        print,
        progress::Outcome,
    },
    wire::v1::{SaveImagesRequest, save_images_response::Response},
};

/// As `docker save` has it: an image can be a private one.
const MODE: u32 = 0o600;

/// Where the archive goes.
enum Output<'a> {
    File { path: &'a Path, file: File, beside: Beside },
    Stdout(Stdout),
}

impl<'a> Output<'a> {
    fn of(path: Option<&'a Path>) -> Result<Self, Failure> {
        let Some(path) = path else {
            if io::stdout().is_terminal() {
                return Err(Failure::usage("an archive is not for a terminal")
                    .hint("name a file with `-o`, or redirect standard output"));
            }
            return Ok(Self::Stdout(tokio::io::stdout()));
        };
        files::prepare(path)?;
        let (file, beside) = Beside::create(path, MODE).map_err(|error| files::cannot_write(path, &error))?;
        Ok(Self::File { path, file: File::from_std(file), beside })
    }

    async fn write(&mut self, piece: &[u8]) -> Result<(), Stop> {
        match self {
            Self::File { path, file, .. } => {
                file.write_all(piece).await.map_err(|error| files::cannot_write(path, &error).into())
            }
            Self::Stdout(out) => print::written(out.write_all(piece).await),
        }
    }

    async fn complete(self) -> Result<(), Stop> {
        match self {
            Self::File { path, mut file, beside } => {
                let completed = file.flush().await.and_then(|()| beside.complete());
                completed.map_err(|error| files::cannot_write(path, &error).into())
            }
            Self::Stdout(mut out) => print::written(out.flush().await),
        }
    }
}

pub(super) async fn run(mut call: Call, args: SaveArgs) -> Result<(), Stop> {
    let mode = display::mode(&call, args.progress, args.quiet)?;
    let namespace = call.namespace()?;
    let mut output = Output::of(given(args.output.as_deref()))?;
    let mut images = call.images().await?;
    let mut display = Display::new(call.env.console(), mode, "Saving");
    let saving = async {
        let request = SaveImagesRequest { namespace: namespace.to_wire(), images: args.images };
        let mut responses = images.save_images(request).await?.into_inner();
        while let Some(message) = display.during(responses.message()).await? {
            match message.response {
                Some(Response::Progress(facts)) => display.update(&facts),
                Some(Response::Piece(piece)) => display.during(output.write(&piece)).await?,
                None => return Err(Failure::lost().into()),
            }
        }
        display.during(output.complete()).await
    };
    let saved = call.signals.guard(saving).await;
    display.finish(if saved.is_ok() { Outcome::Done } else { Outcome::Stopped });
    saved
}
