//! Private names: the names of a namespace's images in the engine.
//!
//! `wharf.invalid/<instance>/<namespace>/<host>/<path>:<tag>`, where the host's port follows `__`. A digest
//! goes into the tag, `…/digest/<host>/<path>:sha256-…`. A name that is too long is hashed,
//! `…/long/<hash>:1`, and the store knows the hash's meaning. `digest` and `long` cannot be hosts, which have
//! a dot or a port, or are `localhost`.

use super::{ImageName, Keys, LongName, NamespaceKey, Room, room};
use crate::names::{
    Namespace, NoRandomness, RESERVED_HOST, Reference, random_id,
    reference::{Digest, NAME_BYTES_MAX},
};

const DIGEST_ROOM: &str = "digest";
const LONG_ROOM: &str = "long";
const UNTAGGED_ROOM: &str = "untagged";

/// Makes and reads the names of one namespace's images.
#[derive(Clone, Debug)]
pub struct NamespaceNames {
    keys: Keys,
    opaque: NamespaceKey,
    prefix: String,
}

/// The name for a reference of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PrivateName {
    name: ImageName,
    /// The hash, if the name is too long: the store must know its meaning.
    long: Option<LongName>,
}

/// The meaning of a private name of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The reference that the job uses.
    Reference(Reference),
    /// The hash of a reference that the store knows.
    Long(LongName),
    /// No reference: the image was built without a tag.
    Untagged,
}

impl NamespaceNames {
    pub(super) fn new(keys: &Keys, namespace: &Namespace) -> Self {
        let opaque = keys.namespace(namespace);
        let prefix = format!("{RESERVED_HOST}/{}/{opaque}/", keys.instance());
        Self { keys: keys.clone(), opaque, prefix }
    }

    /// The prefix of every private name of the namespace; it ends with a slash.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The namespace's opaque name, by which the store knows the namespace.
    pub fn opaque(&self) -> &NamespaceKey {
        &self.opaque
    }

    /// The name of `reference`, `:latest` if it has neither tag nor digest. Store the reference of
    /// [`PrivateName::long`] before the name is used.
    pub fn name(&self, reference: &Reference) -> PrivateName {
        let reference = reference.clone().tagged();
        let fitting = self
            .encode(&reference)
            .filter(|name| name.rsplit_once(':').is_some_and(|(name, _)| name.len() <= NAME_BYTES_MAX));
        match fitting {
            Some(name) => PrivateName { name: ImageName::new(name), long: None },
            None => {
                let hash = self.keys.reference(&reference.to_string());
                let name = ImageName::new(format!("{}{LONG_ROOM}/{hash}:1", self.prefix));
                PrivateName { name, long: Some(hash) }
            }
        }
    }

    /// The name of an image that has lost its last reference, by its id.
    pub fn untagged(&self, id: &Digest) -> ImageName {
        self.in_untagged(id.as_str().strip_prefix("sha256:").unwrap_or_default())
    }

    /// A fresh name for an image that a build makes.
    pub fn fresh(&self) -> Result<ImageName, NoRandomness> {
        Ok(self.in_untagged(&random_id()?))
    }

    fn in_untagged(&self, id: &str) -> ImageName {
        ImageName::new(format!("{}{UNTAGGED_ROOM}/{id}:1", self.prefix))
    }

    /// The name of this namespace that reads `name`, and its meaning; `None` for any other name.
    pub fn own(&self, name: &str) -> Option<(ImageName, Owner)> {
        self.read(name).map(|owner| (ImageName::new(name.to_owned()), owner))
    }

    /// Reads a name in the engine; `None` if it does not belong to this namespace.
    pub fn read(&self, name: &str) -> Option<Owner> {
        let (repository, tag) = name.strip_prefix(&self.prefix)?.rsplit_once(':')?;
        let (room, rest) = repository.split_once('/')?;
        let text = match room {
            LONG_ROOM => return Some(Owner::Long(LongName::new(rest.to_owned()))),
            UNTAGGED_ROOM => return Some(Owner::Untagged),
            DIGEST_ROOM => {
                let (host, path) = rest.split_once('/')?;
                format!("{}/{path}@{}", host.replacen("__", ":", 1), tag.replacen('-', ":", 1))
            }
            host => format!("{}/{rest}:{tag}", host.replacen("__", ":", 1)),
        };
        let reference = Reference::parse(&text).ok()?;
        // A name that this code would not make belongs to nobody.
        (self.name(&reference).name.as_str() == name).then_some(Owner::Reference(reference))
    }

    fn encode(&self, reference: &Reference) -> Option<String> {
        let host = reference.host();
        let lower = host.bytes().all(|byte| !byte.is_ascii_uppercase());
        if !lower || host.starts_with('[') {
            return None;
        }
        let host = host.replacen(':', "__", 1);
        let (prefix, path) = (&self.prefix, reference.path());
        match (reference.tag(), reference.digest().map(Digest::as_str)) {
            (Some(tag), None) => Some(format!("{prefix}{host}/{path}:{tag}")),
            (None, Some(digest)) => {
                Some(format!("{prefix}{DIGEST_ROOM}/{host}/{path}:{}", digest.replacen(':', "-", 1)))
            }
            (Some(_), Some(_)) | (None, None) => None,
        }
    }
}

/// The opaque name of the namespace whose image has this private name of the instance; `None` for other names.
pub fn namespace(instance: &str, name: &str) -> Option<NamespaceKey> {
    if room(name)? != (instance, Room::Namespace) {
        return None;
    }
    let opaque = name.strip_prefix(RESERVED_HOST)?.split('/').nth(2)?;
    Some(NamespaceKey::new(opaque.to_owned()))
}

/// The opaque name of the namespace and the hash, if `name` is a hashed private name of the instance; `None`
/// for other names.
pub fn long_name(instance: &str, name: &str) -> Option<(NamespaceKey, LongName)> {
    let rest =
        name.strip_prefix(RESERVED_HOST)?.strip_prefix('/')?.strip_prefix(instance)?.strip_prefix('/')?;
    let (namespace, rest) = rest.split_once('/')?;
    let (hash, _) = rest.strip_prefix(LONG_ROOM)?.strip_prefix('/')?.rsplit_once(':')?;
    Some((NamespaceKey::new(namespace.to_owned()), LongName::new(hash.to_owned())))
}

impl PrivateName {
    /// The name.
    pub fn name(&self) -> &ImageName {
        &self.name
    }

    /// The hash that stands for a reference that is too long.
    pub fn long(&self) -> Option<&LongName> {
        self.long.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::keys::tests::keys, *};

    fn names(job: &str) -> NamespaceNames {
        keys(7).names(&Namespace::new(job, "1").unwrap())
    }

    fn reference(text: &str) -> Reference {
        Reference::parse(text).unwrap()
    }

    #[test]
    fn a_name_shows_the_reference_where_it_fits() {
        let names = names("a");
        let encoded = |text: &str| {
            names.name(&reference(text)).name().as_str().strip_prefix(names.prefix()).unwrap().to_owned()
        };
        assert_eq!(encoded("app"), "docker.io/library/app:latest");
        assert_eq!(encoded("127.0.0.1:5000/a/b:V1"), "127.0.0.1__5000/a/b:V1");
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(
            encoded(&format!("localhost/app@{digest}")),
            format!("digest/localhost/app:sha256-{}", "a".repeat(64))
        );
        for long in ["[::1]:5000/app:1", "UPPER/app:1", &format!("app:1@{digest}"), &"a".repeat(200)] {
            assert!(encoded(long).starts_with("long/"), "{long}");
        }
    }

    #[test]
    fn other_names_are_not_the_namespaces() {
        let (ours, theirs) = (names("a"), names("b"));
        let id = Digest::from_sha256([1; 32]);
        assert_eq!(ours.read(ours.untagged(&id).as_str()), Some(Owner::Untagged));
        assert_eq!(ours.read(ours.fresh().unwrap().as_str()), Some(Owner::Untagged));
        assert_eq!(ours.read(theirs.untagged(&id).as_str()), None);
        let name = theirs.name(&reference("app:1")).name().clone();
        assert_eq!(ours.read(name.as_str()), None);
        assert_eq!(ours.own(name.as_str()), None);
        assert_eq!(theirs.own(name.as_str()), Some((name, Owner::Reference(reference("app:1")))));
        assert_eq!(ours.read("docker.io/library/app:1"), None);
        assert_eq!(ours.read(&format!("{}docker.io/app:1", ours.prefix())), None);
        assert_eq!(ours.read(&format!("{}:1", ours.prefix())), None);
    }

    fn any_reference() -> impl Strategy<Value = Reference> {
        let host = prop_oneof![
            Just("docker.io".to_owned()),
            "(localhost|[a-z0-9]{1,8}(-[a-z0-9]{1,4})?(\\.[a-zA-Z0-9]{1,8}){1,3})(:[0-9]{1,4})?",
            Just("[::1]:5000".to_owned()),
            "[A-Z][a-zA-Z0-9]{0,6}",
        ];
        let path = prop_oneof![
            "[a-z0-9]{1,6}((\\.|_|__|--?)[a-z0-9]{1,4}){0,2}(/[a-z0-9]{1,5}((\\.|__)[a-z0-9]{1,4})?){0,3}",
            "(digest|long)/[a-z0-9.]{0,3}[a-z0-9]{1,3}",
            "[a-z]{100,200}",
        ];
        let tag =
            prop_oneof![Just(String::new()), ":[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}", ":sha256-[0-9a-f]{64}"];
        let digest = prop_oneof![3 => Just(String::new()), 1 => "@sha256:[0-9a-f]{64}"];
        (host, path, tag, digest).prop_filter_map("not a reference", |(host, path, tag, digest)| {
            Reference::parse(&format!("{host}/{path}{tag}{digest}")).ok()
        })
    }

    proptest! {
        #[test]
        fn a_name_is_a_reference_and_reads_back(reference in any_reference()) {
            let names = names("job");
            let name = names.name(&reference);
            let text = name.name().as_str();
            prop_assert_eq!(Reference::parse(text).unwrap().to_string(), text);
            prop_assert!(text.starts_with(names.prefix()));
            match names.read(text) {
                Some(Owner::Reference(read)) => {
                    prop_assert_eq!(name.long(), None);
                    prop_assert_eq!(read, reference.tagged());
                }
                Some(Owner::Long(hash)) => prop_assert_eq!(name.long(), Some(&hash)),
                Some(Owner::Untagged) | None => prop_assert!(false, "not read: {text}"),
            }
        }

        #[test]
        fn two_references_never_share_a_name(one in any_reference(), two in any_reference()) {
            let names = names("job");
            let same = one.clone().tagged() == two.clone().tagged();
            prop_assert_eq!(names.name(&one) == names.name(&two), same);
        }
    }
}
