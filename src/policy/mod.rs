//! The rules for callers. A [`Permit`] is made here and nowhere else.

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use crate::{
    config::AT_ONCE,
    fault::{Fault, Reason},
    names::{CallerId, Namespace, Pattern, RESERVED_HOST, Reference, printable, printable_url},
};

/// A subject that the policy allows a caller, with the rules that allow it.
#[derive(Clone, Debug)]
pub struct Permit<T> {
    subject: T,
    caller: CallerId,
    rules: Arc<Rules>,
}

impl<T> Permit<T> {
    /// The subject.
    pub fn subject(&self) -> &T {
        &self.subject
    }

    /// The caller for whom it is allowed.
    pub fn caller(&self) -> &CallerId {
        &self.caller
    }

    /// The rules that allow it.
    pub fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }
}

/// An image that may be pulled into a namespace.
#[derive(Debug)]
pub struct PullFrom(Reference);

/// A reference that an image of a namespace may get.
#[derive(Debug)]
pub struct TagAs {
    namespace: Namespace,
    reference: Reference,
}

/// A reference that an image of a namespace may be pushed to.
#[derive(Debug)]
pub struct PushTo {
    namespace: Namespace,
    reference: Reference,
}

/// A URL that a build may fetch from.
#[derive(Debug)]
pub struct Fetch(String);

impl PullFrom {
    /// The image.
    pub fn reference(&self) -> &Reference {
        &self.0
    }
}

impl TagAs {
    /// The namespace whose images may get it.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The reference, with a tag.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }
}

impl PushTo {
    /// The namespace whose images may be pushed there.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The reference that they may be pushed to, with a tag.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }
}

impl Fetch {
    /// The URL, as it stands in the graph.
    pub fn url(&self) -> &str {
        &self.0
    }
}

impl Permit<Namespace> {
    fn permit<T>(&self, subject: T) -> Permit<T> {
        Permit { subject, caller: self.caller.clone(), rules: Arc::clone(&self.rules) }
    }

    /// Whether `reference` may be pulled into the namespace.
    pub fn pull_from(&self, reference: Reference) -> Result<Permit<PullFrom>, Fault> {
        self.rules.registry(&reference)?;
        Ok(self.permit(PullFrom(reference)))
    }

    /// Whether an image of the namespace may get `reference` (`:latest` if it has no tag), which comes from
    /// `field` of a request.
    pub fn tag_as(
        &self,
        field: impl Into<Cow<'static, str>>,
        reference: Reference,
    ) -> Result<Permit<TagAs>, Fault> {
        let reference = new_name(field, reference)?;
        Ok(self.permit(TagAs { namespace: self.subject.clone(), reference }))
    }

    /// Whether an image of the namespace may be pushed to `reference` (`:latest` if it has no tag), which comes
    /// from `field` of a request.
    pub fn push_to(
        &self,
        field: impl Into<Cow<'static, str>>,
        reference: Reference,
    ) -> Result<Permit<PushTo>, Fault> {
        let reference = new_name(field, reference)?;
        self.rules.registry(&reference)?;
        Ok(self.permit(PushTo { namespace: self.subject.clone(), reference }))
    }

    /// Whether a build in the namespace may fetch from `url`, whose host has these addresses.
    pub fn fetch(&self, url: &str, addresses: &[IpAddr]) -> Result<Permit<Fetch>, Fault> {
        for address in addresses {
            self.rules.address(url, *address)?;
        }
        Ok(self.permit(Fetch(url.to_owned())))
    }
}

/// The rules for one set of callers.
#[derive(Debug, PartialEq, Eq)]
pub struct Rules {
    /// How messages name these rules: "built-in", "serve uid 1000".
    name: String,
    namespaces: Pattern,
    at_once: u32,
}

impl Rules {
    /// The built-in rules for jobs that match `namespaces`: any registry, including loopback; images
    /// that are on the node; any URL except those of this node and its network; no Git.
    pub fn built_in(name: impl Into<String>, namespaces: Pattern) -> Self {
        Self { name: name.into(), namespaces, at_once: AT_ONCE }
    }

    /// The same rules with another limit on the work that runs at once.
    #[must_use]
    pub fn with_at_once(self, at_once: u32) -> Self {
        Self { at_once, ..self }
    }

    /// How many builds, pushes, pulls and saves of a caller may run at once; as many changes may run beside them.
    pub fn at_once(&self) -> u32 {
        self.at_once
    }

    /// How messages name these rules.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The jobs whose namespaces the caller may act in.
    pub fn namespaces(&self) -> &Pattern {
        &self.namespaces
    }

    /// A description of these rules for the operator, one line for each.
    pub fn describe(&self) -> [String; 5] {
        [
            format!("namespaces: `{}`", self.namespaces),
            format!("builds, pushes, pulls and saves that run at once: {}", self.at_once),
            "registries: any, loopback included; and images that are on the node".to_owned(),
            "ADD of a URL: not from loopback, link-local or private addresses".to_owned(),
            "Git repositories: none; host networking and privileged steps: never".to_owned(),
        ]
    }

    /// Whether `caller`, whose rules these are, may act in `namespace`.
    pub fn namespace(
        self: &Arc<Self>,
        caller: &CallerId,
        namespace: Namespace,
    ) -> Result<Permit<Namespace>, Fault> {
        if self.namespaces.matches(namespace.job().name()) {
            return Ok(Permit { subject: namespace, caller: caller.clone(), rules: Arc::clone(self) });
        }
        let text = format!(
            "namespace `{}` is not yours: you may use `{}`",
            printable(&namespace.to_string()),
            self.namespaces
        );
        Err(Fault::new(Reason::NamespaceDenied, text)
            .hint("name one of yours, or ask the node's operator for a `[[serve]]` rule"))
    }

    /// Whether an image may be pulled from, or pushed to, the registry of `reference`.
    fn registry(&self, _reference: &Reference) -> Result<(), Fault> {
        // The built-in rules name no registries, so all are allowed.
        Ok(())
    }

    /// Whether a build may fetch from `address`, which the URL's host resolves to.
    fn address(&self, url: &str, address: IpAddr) -> Result<(), Fault> {
        if is_public(address) {
            return Ok(());
        }
        let text = format!(
            "`ADD {}` is not allowed: {address} is an address of this node or its network",
            printable_url(url)
        );
        Err(Fault::new(Reason::SourceDenied, text).hint("copy the file into the build context instead"))
    }
}

/// Refuses a reference that cannot be a new name of an image.
fn new_name(field: impl Into<Cow<'static, str>>, reference: Reference) -> Result<Reference, Fault> {
    if reference.digest().is_some() {
        let text = format!(
            "`{}` has a digest: a new name cannot choose the image's digest; omit it",
            reference.familiar()
        );
        return Err(Fault::invalid(field, text));
    }
    if reference.is_reserved() {
        let text = format!("names under `{RESERVED_HOST}` are wharfd's own: choose another host");
        return Err(Fault::invalid(field, text));
    }
    Ok(reference.tagged())
}

/// Whether an address belongs neither to this node nor to its network and does not lead to such an
/// address. The exceptions are those of IANA's special-purpose registries (RFC 6890, with later entries).
pub(crate) fn is_public(address: IpAddr) -> bool {
    let address = address.to_canonical();
    if is_no_server(address) {
        return false;
    }
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            let shared = a == 100 && (64..128).contains(&b);
            let protocols = (a, b, c) == (192, 0, 0);
            let relays_v6 = (a, b, c) == (192, 88, 99);
            let benchmark = a == 198 && (18..20).contains(&b);
            let reserved = a >= 240;
            !(v4.is_loopback()
                || v4.is_private()
                || v4.is_documentation()
                || shared
                || protocols
                || relays_v6
                || benchmark
                || reserved)
        }
        IpAddr::V6(v6) => {
            let [first, second, ..] = v6.segments();
            // Only 2000::/3 is assigned to networks. Any other prefix, such as NAT64's, may lead to an
            // IPv4 address of this node.
            let global = first & 0xe000 == 0x2000;
            // Teredo and its kin, documentation, 6to4, documentation again.
            let special = (first == 0x2001 && (second < 0x200 || second == 0xdb8))
                || first == 0x2002
                || (first == 0x3fff && second < 0x1000);
            global && !special
        }
    }
}

/// Cloud metadata services that are not at a link-local address: Azure's, Alibaba's, Oracle's, and
/// Amazon's and Google's over IPv6.
const METADATA: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// Whether a job may never reach a server at this address: metadata services are link-local, and
/// `0.0.0.0` is another name of the node.
pub(crate) fn is_no_server(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let odd = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast() || v4.octets().starts_with(&[0]),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_unspecified(),
    };
    odd || address.is_multicast() || METADATA.contains(&address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_acts_only_in_namespaces_of_its_pattern() {
        let rules = Arc::new(Rules::built_in("serve[0]", "acme/*".parse().unwrap()));
        assert!(rules.namespace(&CallerId::Uid(1), Namespace::new("acme/app", "1").unwrap()).is_ok());
        let fault = rules.namespace(&CallerId::Uid(1), Namespace::new("acmes", "1").unwrap()).unwrap_err();
        assert_eq!(fault.reason(), Reason::NamespaceDenied);
    }

    #[test]
    fn a_new_name_has_no_digest_and_is_not_wharfds() {
        let rules = Arc::new(Rules::built_in("serve[0]", "acme/*".parse().unwrap()));
        let namespace = rules.namespace(&CallerId::Uid(1), Namespace::new("acme/app", "1").unwrap()).unwrap();
        let reference = |text: &str| Reference::parse(text).unwrap();
        let tag = namespace.tag_as("target", reference("app")).unwrap();
        assert_eq!(tag.subject().reference(), &reference("app:latest"));
        assert_eq!(tag.subject().namespace(), namespace.subject());
        let digest = format!("app@sha256:{}", "a".repeat(64));
        for denied in ["wharf.invalid/i/hold/h:1", "x.WHARF.invalid/app:1", &digest] {
            let fault = namespace.tag_as("target", reference(denied)).unwrap_err();
            assert_eq!(fault.field(), Some("target"), "{denied}");
            assert!(namespace.push_to("reference", reference(denied)).is_err(), "{denied}");
        }
    }

    #[test]
    fn addresses_of_the_node_and_its_network_are_not_public() {
        for address in [
            "127.0.0.1",
            "10.1.2.3",
            "172.17.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "::1",
            "fe80::1",
            "fd00::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "::127.0.0.1",
            "2001:0:7f00:1::",
            "2001:db8::1",
            "3fff::1",
            "ff02::1",
            "192.0.0.1",
            "255.255.255.255",
            "224.0.0.1",
            "168.63.129.16",
            "fd00:ec2::254",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        for address in
            ["169.254.169.254", "::ffff:169.254.169.254", "0.0.0.0", "::", "fe80::1", "168.63.129.16"]
        {
            assert!(is_no_server(address.parse().unwrap()), "{address}");
        }
        for address in ["127.0.0.1", "::1", "10.1.2.3", "fd00::1", "192.168.1.1", "8.8.8.8"] {
            assert!(!is_no_server(address.parse().unwrap()), "{address}");
        }
        for address in ["8.8.8.8", "2606:4700::1111", "2001:4860:4860::8888", "172.32.0.1", "100.128.0.1"] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }
}
