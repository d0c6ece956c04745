//! The outputs of a build that the client receives: a directory tree, or a file.
//!
//! Everything in them comes from the Dockerfile, which may be anyone's.

mod flag;
#[cfg(feature = "fuzzing")]
mod fuzz;
mod out;
mod receive;
mod sinks;
mod tree;

use std::path::PathBuf;

use super::{args::BuildArgs, checkouts::Checkouts, exit::Failure};
use crate::{
    names::Reference,
    wire::v1::{self, output},
};
pub(crate) use flag::{Output, output};
#[cfg(feature = "fuzzing")]
pub(crate) use fuzz::fuzz;
pub(crate) use out::Out;
pub(crate) use receive::SAID_MAX;
pub(crate) use sinks::Sinks;

/// The outputs of one build.
#[derive(Debug)]
pub(crate) struct Plan {
    /// As wharfd gets them; none means an image.
    pub(crate) wire: Vec<v1::Output>,
    /// The image's names.
    pub(crate) tags: Vec<Reference>,
    /// Whether they are pushed.
    pub(crate) push: bool,
    /// The place of each output that comes to this client.
    places: Vec<Option<Place>>,
}

/// A place for an output.
#[derive(Debug)]
enum Place {
    Tree(PathBuf),
    /// A file, or standard output.
    File(Option<PathBuf>),
}

impl Place {
    /// Its name for people.
    fn name(&self) -> String {
        match self {
            Self::Tree(path) | Self::File(Some(path)) => format!("`{}`", path.display()),
            Self::File(None) => "standard output".to_owned(),
        }
    }
}

impl Plan {
    /// The outputs that the flags request.
    pub(crate) fn of(args: &BuildArgs) -> Result<Self, Failure> {
        let mut plan =
            Self { wire: Vec::new(), tags: args.tags.clone(), push: args.push, places: Vec::new() };
        let mut images: Vec<(&[Reference], bool)> = Vec::new();
        for output in &args.outputs {
            match output {
                Output::Absent => {}
                Output::Local(path) => {
                    plan.add(output::Output::Local(v1::LocalOutput {}), Some(Place::Tree(path.clone())));
                }
                Output::Tar(path) => {
                    plan.add(output::Output::Tar(v1::TarOutput {}), Some(Place::File(path.clone())));
                }
                Output::Archive { docker, names, file } => {
                    let names = if args.tags.is_empty() { names } else { &args.tags };
                    let names = names.iter().map(ToString::to_string).collect();
                    let archive = match docker {
                        true => output::Output::Docker(v1::DockerOutput { names }),
                        false => output::Output::Oci(v1::OciOutput { names }),
                    };
                    plan.add(archive, Some(Place::File(file.clone())));
                }
                Output::CacheOnly => plan.add(output::Output::CacheOnly(v1::CacheOnlyOutput {}), None),
                Output::Image { names, push } => images.push((names, *push || args.push)),
            }
        }
        if !plan.wire.is_empty() && images.is_empty() && (args.push || args.load) {
            images.push((&[], args.push));
        }
        plan.image(&images)?;
        if plan.push && plan.tags.is_empty() {
            let hint = "name the image with `--tag`";
            let text = if args.push {
                "`--push` needs a name to push"
            } else {
                "an output pushes the image, but the image has no name"
            };
            return Err(Failure::usage(text).hint(hint));
        }
        if plan.on_stdout() > 1 {
            return Err(Failure::usage("several outputs go to standard output")
                .hint("write all but one to files, with `dest=FILE`"));
        }
        Ok(plan)
    }

    fn add(&mut self, output: output::Output, place: Option<Place>) {
        self.wire.push(v1::Output { output: Some(output) });
        self.places.push(place);
    }

    /// Joins the outputs that are images: a build makes one.
    fn image(&mut self, images: &[(&[Reference], bool)]) -> Result<(), Failure> {
        let Some((_, push)) = images.first().copied() else {
            return Ok(());
        };
        let is_split = images.iter().any(|(_, other)| *other != push);
        if self.tags.is_empty() {
            if is_split {
                let text = "the outputs of one image are either all pushed or none";
                return Err(Failure::usage(text).hint("push single names with `wharf push`"));
            }
            for name in images.iter().flat_map(|(names, _)| *names) {
                if !self.tags.contains(name) {
                    self.tags.push(name.clone());
                }
            }
        }
        // With `--tag` each of the outputs has all names.
        self.push = images.iter().any(|(_, push)| *push);
        self.add(output::Output::Image(v1::ImageOutput {}), None);
        Ok(())
    }

    /// Whether an image stays in the namespace.
    pub(crate) fn makes_image(&self) -> bool {
        let is_image = |output: &v1::Output| matches!(output.output, Some(output::Output::Image(_)));
        self.wire.is_empty() || self.wire.iter().any(is_image)
    }

    /// Whether there is an image, in the namespace or in an archive.
    pub(crate) fn has_image(&self) -> bool {
        let is_archive = |output: &v1::Output| {
            matches!(output.output, Some(output::Output::Oci(_) | output::Output::Docker(_)))
        };
        self.makes_image() || self.wire.iter().any(is_archive)
    }

    /// Whether an output goes to standard output.
    pub(crate) fn uses_stdout(&self) -> bool {
        self.on_stdout() > 0
    }

    fn on_stdout(&self) -> usize {
        self.places.iter().flatten().filter(|place| matches!(place, Place::File(None))).count()
    }

    /// The names that the image gets; none if there is no image.
    pub(crate) fn names(&self) -> &[Reference] {
        if self.makes_image() { &self.tags } else { &[] }
    }

    /// Opens the places, as far as that can be done before the build.
    pub(crate) fn open(self, checkouts: &Checkouts) -> Result<Sinks, Failure> {
        Sinks::open(self.places, checkouts)
    }
}
