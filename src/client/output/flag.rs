//! `--output`, read as buildx reads it (`util/buildflags/export.go`, `build.CreateExports`).

use std::path::PathBuf;

use crate::{
    client::options::{self, csv, switch},
    names::Reference,
};

/// One `--output`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// An empty text, as from a variable that is not set, is not an output.
    Absent,
    /// `type=local`: files in a directory.
    Local(PathBuf),
    /// `type=tar`: the same as a tar, to a file or, without one, to standard output.
    Tar(Option<PathBuf>),
    /// `type=oci`, or `type=docker` with a destination: an image as a tar, to a file or to standard output.
    Archive {
        /// Whether `docker load` has to read it.
        docker: bool,
        /// Its names, unless there is a `--tag`.
        names: Vec<Reference>,
        /// The file.
        file: Option<PathBuf>,
    },
    /// `type=image`, `type=registry`, or `type=docker` without a file: an image in the namespace.
    Image {
        /// Its names, unless there is a `--tag`.
        names: Vec<Reference>,
        /// Whether they are pushed.
        push: bool,
    },
    /// `type=cacheonly`: nothing.
    CacheOnly,
}

const TYPES: &str = "the types are local, tar, oci, docker, image, registry and cacheonly";

/// Reads one `--output`.
pub(crate) fn output(text: &str) -> Result<Output, String> {
    if text.is_empty() {
        return Ok(Output::Absent);
    }
    let fields = csv(text)?;
    // A word alone is a directory, even one with a `=` in it; only quotes and commas make a list of it.
    if let [field] = fields.as_slice()
        && field == text
        && !text.starts_with("type=")
    {
        return Ok(if text == "-" { Output::Tar(None) } else { Output::Local(text.into()) });
    }
    let mut attributes = Attributes::default();
    for field in &fields {
        let (key, value) =
            field.split_once('=').ok_or_else(|| format!("`{field}` is not a `key=value` pair"))?;
        attributes.set(&key.trim().to_lowercase(), value);
    }
    attributes.output()
}

/// The keys and values of a list, each with the last value.
#[derive(Debug, Default)]
struct Attributes {
    kind: Option<String>,
    dest: Option<String>,
    others: Vec<(String, String)>,
}

impl Attributes {
    fn set(&mut self, key: &str, value: &str) {
        match key {
            "type" => self.kind = Some(value.to_owned()),
            // buildx knows no destination that is empty.
            "dest" => self.dest = Some(value.to_owned()).filter(|dest| !dest.is_empty()),
            _ => {
                self.others.retain(|(other, _)| other != key);
                self.others.push((key.to_owned(), value.to_owned()));
            }
        }
    }

    fn output(self) -> Result<Output, String> {
        let kind = self.kind.as_deref().unwrap_or_default();
        match kind {
            "" => Err(format!("the type is missing: write `type=TYPE`; {TYPES}")),
            "local" => {
                self.files()?;
                match self.dest.as_deref() {
                    None => Err("the directory is missing: write `dest=DIR`".to_owned()),
                    Some("-") => Err("a directory cannot go to standard output: use `type=tar`".to_owned()),
                    Some(dest) => Ok(Output::Local(dest.into())),
                }
            }
            "tar" => {
                self.files()?;
                Ok(Output::Tar(self.dest.filter(|dest| dest != "-").map(PathBuf::from)))
            }
            "oci" => self.archive(),
            "docker" if self.dest.is_some() => self.archive(),
            "image" | "registry" | "docker" => self.image(),
            "cacheonly" => match self.others.first() {
                Some((key, _)) => Err(format!("`type=cacheonly` has no key `{key}`")),
                None => Ok(Output::CacheOnly),
            },
            kind => Err(format!("there is no type `{kind}`; {TYPES}")),
        }
    }

    /// Checks the keys of a tree of files.
    fn files(&self) -> Result<(), String> {
        for (key, value) in &self.others {
            match (key.as_str(), value.as_str()) {
                // A build has one platform, and no attestations.
                ("platform-split", value) => drop(switch(value)?),
                ("attestation-prefix", _) | ("mode", "copy") => {}
                ("mode", _) => {
                    return Err("only `mode=copy` is supported: remove the directory before the build to begin \
                                with an empty one"
                        .to_owned());
                }
                ("src", _) => return Err(
                    "`src` is not supported: copy what you need into a stage of its own, `FROM scratch`, and \
                     build that with `--target`"
                        .to_owned(),
                ),
                (key, _) => return Err(format!("there is no key `{key}`; the keys are type and dest")),
            }
        }
        Ok(())
    }

    fn archive(self) -> Result<Output, String> {
        let mut names = Vec::new();
        for (key, value) in &self.others {
            match key.as_str() {
                "name" => names = names_of(value)?,
                "tar" if switch(value)? => {}
                "tar" => {
                    return Err(
                        "`tar=false` is not supported: unpack the tar, `tar -xf FILE -C DIR`".to_owned()
                    );
                }
                key => return Err(no_key_of_image(key, "type, dest, name and tar")),
            }
        }
        let docker = self.kind.as_deref() == Some("docker");
        let file = self.dest.filter(|dest| dest != "-").map(PathBuf::from);
        Ok(Output::Archive { docker, names, file })
    }

    fn image(self) -> Result<Output, String> {
        if self.dest.is_some() {
            return Err("an image has no `dest`: it stays on the node".to_owned());
        }
        let (mut names, mut push) = (Vec::new(), self.kind.as_deref() == Some("registry"));
        for (key, value) in &self.others {
            match key.as_str() {
                "name" => names = names_of(value)?,
                "push" if self.kind.as_deref() == Some("image") => push = switch(value)?,
                // The image is in the engine's store in any case.
                "unpack" => drop(switch(value)?),
                "store" if switch(value)? => {}
                "store" => return Err("the image is always stored on the node".to_owned()),
                "push-by-digest" => {
                    return Err("`push-by-digest` is not supported: push by a name".to_owned());
                }
                "registry.insecure" => {
                    return Err(
                        "leave out `registry.insecure`: the node's operator lists such registries in the \
                                engine's configuration"
                            .to_owned(),
                    );
                }
                key => return Err(no_key_of_image(key, "type, name and push")),
            }
        }
        Ok(Output::Image { names, push })
    }
}

/// The names of an image, with commas between them.
fn names_of(value: &str) -> Result<Vec<Reference>, String> {
    value.split(',').filter(|name| !name.is_empty()).map(options::tag).collect()
}

/// The hint about a key that an output of an image lacks.
fn no_key_of_image(key: &str, keys: &str) -> String {
    match key {
        "compression" | "compression-level" | "force-compression" => {
            format!("leave out `{key}`: the engine decides how layers are compressed")
        }
        key if key.starts_with("annotation") => {
            "annotations are not supported: use `--label`, which sets labels in the image's config".to_owned()
        }
        key => format!("there is no key `{key}`; the keys are {keys}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(names: &[&str], push: bool) -> Output {
        let names = names.iter().map(|name| options::tag(name).unwrap()).collect();
        Output::Image { names, push }
    }

    fn archive(docker: bool, names: &[&str], file: Option<&str>) -> Output {
        let names = names.iter().map(|name| options::tag(name).unwrap()).collect();
        Output::Archive { docker, names, file: file.map(PathBuf::from) }
    }

    #[test]
    fn outputs_are_read_as_buildx_reads_them() {
        let local = |path: &str| Output::Local(path.into());
        let tar = |path: &str| Output::Tar(Some(path.into()));
        for (text, expected) in [
            ("", Output::Absent),
            ("out", local("out")),
            ("dest=out", local("dest=out")),
            ("./a b", local("./a b")),
            ("-", Output::Tar(None)),
            ("type=local,dest=out", local("out")),
            ("dest=out,type=local", local("out")),
            ("TYPE=local, Dest =out", local("out")),
            ("type=local,dest= out", local(" out")),
            ("type=local,dest=a,dest=b", local("b")),
            ("type=local,\"dest=a,b\"\"c\"", local("a,b\"c")),
            ("type=local,dest=a=b", local("a=b")),
            ("type=local,dest=out,platform-split=false,mode=copy,attestation-prefix=x", local("out")),
            ("type=tar", Output::Tar(None)),
            ("type=tar,dest=", Output::Tar(None)),
            ("type=tar,dest=-", Output::Tar(None)),
            ("type=tar,dest=out.tar", tar("out.tar")),
            ("\"type=tar\",dest=out.tar", tar("out.tar")),
            ("type=image", image(&[], false)),
            ("type=docker", image(&[], false)),
            ("type=image,name=app:1,push=true", image(&["app:1"], true)),
            ("type=image,push=0,unpack=false,store=true", image(&[], false)),
            ("type=image,\"name=a:1,b\"", image(&["a:1", "b"], false)),
            ("type=registry", image(&[], true)),
            ("type=registry,name=reg.example/app", image(&["reg.example/app"], true)),
            ("type=cacheonly", Output::CacheOnly),
            ("type=docker,dest=", image(&[], false)),
            ("type=docker,dest=-", archive(true, &[], None)),
            ("type=docker,dest=a.tar,name=app", archive(true, &["app"], Some("a.tar"))),
            ("type=oci", archive(false, &[], None)),
            ("type=oci,tar=true,dest=a.tar,\"name=a:1,b:2\"", archive(false, &["a:1", "b:2"], Some("a.tar"))),
        ] {
            assert_eq!(output(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn outputs_that_are_wrong_are_refused() {
        for (text, why) in [
            ("type=", "the type is missing"),
            ("dest=a,x=b", "the type is missing"),
            ("a,b", "`a` is not a `key=value` pair"),
            ("\"out\"", "`out` is not a `key=value` pair"),
            ("type=local", "the directory is missing"),
            ("type=local,dest=", "the directory is missing"),
            ("type=local,dest=-", "use `type=tar`"),
            ("type=local,dest=o,mode=delete", "only `mode=copy`"),
            ("type=local,dest=o,platform-split=maybe", "write `true` or `false`"),
            ("type=local,dest=o,src=/a", "`FROM scratch`"),
            ("type=tar,compression=gzip", "there is no key `compression`"),
            ("type=Local,dest=o", "there is no type `Local`"),
            ("type=image,dest=o", "no `dest`"),
            ("type=image,name=Bad", "bad"),
            ("type=image,push=maybe", "write `true` or `false`"),
            ("type=image,push-by-digest=true,name=a", "push by a name"),
            ("type=registry,push=false", "there is no key `push`"),
            ("type=image,registry.insecure=true", "operator"),
            ("type=image,compression=zstd", "the engine decides"),
            ("type=image,annotation.a=b", "--label"),
            ("type=image,store=false", "always stored"),
            ("type=cacheonly,x=y", "no key `x`"),
            ("type=oci,tar=false,dest=o", "tar -xf"),
            ("type=oci,compression=zstd", "the engine decides"),
            ("type=docker,dest=o,context=x", "no key `context`"),
            ("type=oci,push=true", "no key `push`"),
            ("type=local,\"dest=o", "a quote is not closed"),
        ] {
            let error = output(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
