//! Who is served, and who is not.

use clap::Parser as _;

use super::*;
use crate::{
    config::Flags,
    names::{Namespace, own_job},
};

fn user(uid: u32) -> Peer {
    Peer::User { uid, pid: None, beside: false }
}

/// A peer in the network; `None` has shown no certificate.
fn remote(certificate: Option<&[&str]>) -> Peer {
    let certificate =
        certificate.map(|names| names.iter().map(|name| name.parse().unwrap()).collect::<Arc<[_]>>());
    Peer::Remote { address: "192.0.2.1:4000".parse().unwrap(), certificate }
}

fn beside(uid: u32) -> Peer {
    Peer::User { uid, pid: None, beside: true }
}

fn identities(file: &str) -> Identities {
    let flags = Flags::try_parse_from(["wharfd"]).unwrap();
    let config = Config::with_file(flags, file);
    let users = Users::with_own_uid(&config, &Policies::of(&config), 998, users::OVERFLOW_UID);
    Identities { users, ..Identities::new(&config).unwrap() }
}

fn identify(identities: &Identities, peer: &Peer) -> Result<Caller, Fault> {
    identities.identify(&Presented { peer, authorization: None, is_alone: true })
}

#[test]
fn root_and_wharfds_own_uid_are_served_and_nobody_else() {
    let identities = identities("");
    assert_eq!(identify(&identities, &user(0)).unwrap().to_string(), "uid 0");
    assert!(!identities.root_is_every_job());
    let theirs = own_job(998);
    for (uid, own, others) in [(0, "user/root", &*theirs), (998, &*theirs, "user/root")] {
        let caller = identify(&identities, &user(uid)).unwrap();
        let allows = |job: &str| caller.namespace(Some(Namespace::new(job, "1").unwrap())).is_ok();
        assert!(allows(own), "{uid}");
        for job in [others, "acme/app", "user/", "user/root/x", "user/rooty", "*"] {
            assert!(!allows(job), "{uid}: {job}");
        }
    }
    for uid in [0, 998] {
        let caller = identify(&identities, &beside(uid)).unwrap();
        assert!(caller.namespace(Some(Namespace::new("acme/app", "1").unwrap())).is_ok());
        assert_ne!(caller.id(), identify(&identities, &user(uid)).unwrap().id());
    }
    assert!(identify(&identities, &beside(1000)).is_err());
    let fault = identify(&identities, &user(1000)).unwrap_err();
    assert_eq!(fault.reason(), Reason::UnknownCaller);
    assert!(fault.hint_text().unwrap().contains("uid = 1000"));
}

#[test]
fn root_is_every_job_where_the_configuration_says_so() {
    for (namespaces, every) in [("*", true), ("acme/*", false), ("user/root", false)] {
        let file = format!("[[serve]]\nuid = 0\nnamespaces = \"{namespaces}\"\n");
        assert_eq!(identities(&file).root_is_every_job(), every, "{namespaces}");
        let [one, other] = [user(0), beside(0)].map(|peer| identify(&identities(&file), &peer).unwrap());
        assert_eq!(one.id(), other.id(), "an entry applies inside and outside of containers");
    }
    assert!(!identities("[[serve]]\nuid = 1000\nnamespaces = \"*\"\n").root_is_every_job());
}

#[test]
fn who_is_named_is_served_as_it_says() {
    let identities = identities(
        r#"
        default_engine = "a"
        [engines.a]
        socket = "unix:///a"
        [engines.b]
        socket = "unix:///b"
        [[serve]]
        uid = 1000
        namespaces = "acme/*"
        engine = "b"
        "#,
    );
    let caller = identify(&identities, &user(1000)).unwrap();
    assert_eq!(caller.engine().as_str(), "b");
    assert!(caller.namespace(Some(Namespace::new("acme/app", "1").unwrap())).is_ok());
    assert!(caller.namespace(Some(Namespace::new("other/app", "1").unwrap())).is_err());
    assert_eq!(identify(&identities, &user(0)).unwrap().engine().as_str(), "a");
}

#[test]
fn a_static_token_is_served_by_its_hash_and_a_bad_one_is_nobody() {
    const TOKEN: &str = "0123456789abcdef0123456789abcdef";
    let hash = |token: &str| {
        let digest = <sha2::Sha256 as sha2::Digest>::digest(token.as_bytes());
        digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let entry = |name: &str, token: &str| {
        format!("[[serve]]\ntoken = \"{name}\"\nsha256 = \"{}\"\nnamespaces = \"{name}/*\"\n", hash(token))
    };
    let identities = identities(&(entry("nightly", TOKEN) + &entry("short", "short")));
    let peers = [user(0), user(1000)];
    let presented = |peer, authorization: &str| {
        let authorization = HeaderValue::from_str(authorization).unwrap();
        let presented = Presented { peer, authorization: Some(&authorization), is_alone: true };
        identities.identify(&presented).map(|caller| caller.to_string()).map_err(|fault| {
            assert_eq!(fault.reason(), Reason::UnknownCaller);
            assert!(!fault.text().contains(TOKEN), "{fault}");
            fault.text().to_owned()
        })
    };
    for peer in &peers {
        for good in [format!("Bearer {TOKEN}"), format!("bearer  {TOKEN} ")] {
            assert_eq!(presented(peer, &good).unwrap(), "token nightly");
        }
        // A bad token is nobody, though root without one is served.
        for bad in [
            format!("Bearer {TOKEN}0"),
            "Bearer ".to_owned(),
            "Bearer".to_owned(),
            format!("Basic {TOKEN}"),
            format!("Bearer {TOKEN} {TOKEN}"),
            format!("Bearer {}", hash(TOKEN)),
            TOKEN.to_owned(),
        ] {
            assert!(presented(peer, &bad).is_err(), "{bad}");
        }
        assert!(presented(peer, "Bearer short").unwrap_err().contains("too short"));
    }
    assert_eq!(identities.standing(&user(0)), Standing::Served(CallerId::Uid(0)));
    assert_eq!(identities.standing(&user(1000)), Standing::Unproven);
    let authorization = HeaderValue::from_str(&format!("Bearer {TOKEN}")).unwrap();
    let presented = Presented { peer: &user(1000), authorization: Some(&authorization), is_alone: true };
    let caller = identities.identify(&presented).unwrap();
    assert!(caller.namespace(None).unwrap_err().hint_text().is_some(), "it has to name its namespace");
    let named = |job: &str| caller.namespace(Some(Namespace::new(job, "1").unwrap()));
    assert!(named("nightly/x").is_ok() && named("other").is_err());
}

#[test]
fn users_whom_the_kernel_cannot_name_are_nobody() {
    let as_nobody = Config::with_file(Flags::try_parse_from(["wharfd"]).unwrap(), "");
    let users = Users::with_own_uid(&as_nobody, &Arc::default(), users::OVERFLOW_UID, users::OVERFLOW_UID);
    let as_nobody = Identities { users, ..Identities::new(&as_nobody).unwrap() };
    for peer in [user(users::OVERFLOW_UID), beside(users::OVERFLOW_UID)] {
        let fault = identify(&as_nobody, &peer).unwrap_err();
        assert!(fault.text().contains("every user that the kernel cannot name"), "{fault}");
        assert!(!fault.hint_text().unwrap().contains("[[serve]]"));
    }
    assert_eq!(as_nobody.serves_overflow(), None);
    let named = identities(&format!("[[serve]]\nuid = {}\nnamespaces = \"acme/*\"\n", users::OVERFLOW_UID));
    assert!(identify(&named, &user(users::OVERFLOW_UID)).is_ok());
    assert_eq!(named.serves_overflow(), Some(users::OVERFLOW_UID));
}

const CERTIFICATES: &str = r#"
[tls]
certificate = "/c"
key = "/k"
client_ca = "/ca"
[[serve]]
certificate = "agent.example"
namespaces = "acme/*"
[[serve]]
certificate = "spiffe://ci/agent"
namespaces = "*"
"#;

#[test]
fn a_certificate_is_served_by_one_exact_name() {
    let identities = identities(CERTIFICATES);
    let identify = |names: &[&str]| identify(&identities, &remote(Some(names)));
    for names in [&["agent.example"][..], &["other", "agent.example", "agent.example"]] {
        let caller = identify(names).unwrap();
        assert_eq!(caller.to_string(), "certificate agent.example");
        assert!(caller.namespace(Some(Namespace::new("acme/app", "1").unwrap())).is_ok());
        assert!(caller.namespace(Some(Namespace::new("other", "1").unwrap())).is_err());
        assert!(!caller.is_operator());
        assert_eq!(identities.standing(&remote(Some(names))), Standing::Served(caller.id().clone()));
    }
    assert_eq!(identify(&["spiffe://ci/agent"]).unwrap().to_string(), "certificate spiffe://ci/agent");
    for (names, why) in [
        (&[][..], "the certificate has no name"),
        (&["example"], "no name of the certificate is served here: `example`"),
        (&["xagent.example", "agent.example.evil"], "is served here"),
        (&["Agent.example"], "is served here"),
        (&["spiffe://ci/agent/", "spiffe://ci"], "is served here"),
        (&["agent.example", "spiffe://ci/agent"], "of several callers: `agent.example`, `spiffe://ci/agent`"),
    ] {
        let fault = identify(names).unwrap_err();
        assert_eq!(fault.reason(), Reason::UnknownCaller);
        assert!(fault.text().contains(why), "{names:?}: {fault}");
        assert_eq!(identities.standing(&remote(Some(names))), Standing::Stranger);
    }
    // Nobody in the network is a user, and no user has a certificate.
    let nobody = super::tests::identify(&identities, &remote(None)).unwrap_err();
    assert!(nobody.text().contains("nothing proves who calls"), "{nobody}");
    assert_eq!(super::tests::identify(&identities, &beside(0)).unwrap().id(), &CallerId::Operator(0));
}

#[test]
fn a_certificate_named_like_another_schemes_caller_is_not_that_caller() {
    let hash = "0123456789abcdefABCDEF0000000000000000000000000000000000000000ff";
    let identities = identities(&format!(
        "{CERTIFICATES}[[serve]]\ntoken = \"nightly\"\nsha256 = \"{hash}\"\nnamespaces = \"*\"\n"
    ));
    for name in ["nightly", "root", "uid:0", "token:nightly", "ci:acme/app"] {
        let fault = identify(&identities, &remote(Some(&[name]))).unwrap_err();
        assert_eq!(fault.reason(), Reason::UnknownCaller, "{name}");
        assert_eq!(identities.standing(&remote(Some(&[name]))), Standing::Unproven, "{name}");
    }
    // Where such a name is served, its caller is still another.
    let named = CallerId::Certificate("nightly".parse().unwrap());
    let token = CallerId::Token("nightly".to_owned().try_into().unwrap());
    assert!(named != token && named.key() != token.key() && named.to_string() != token.to_string());
}

#[test]
fn a_token_goes_before_a_certificate() {
    let identities = identities(CERTIFICATES);
    let authorization = HeaderValue::from_static("Bearer nobody-has-this-token-0123456789");
    let peer = remote(Some(&["agent.example"]));
    let presented = Presented { peer: &peer, authorization: Some(&authorization), is_alone: true };
    let fault = identities.identify(&presented).unwrap_err();
    assert!(fault.text().contains("token is not known"), "a bad token is nobody: {fault}");
}

/// The operator learns what a caller may do if that caller is served, and otherwise that it is not.
#[test]
fn who_is_explained_is_served_and_by_these_rules() {
    let hash = "0".repeat(64);
    let identities = identities(&format!(
        "{CERTIFICATES}[[serve]]\ntoken = \"t\"\nsha256 = \"{hash}\"\nnamespaces = \"acme/*\"\n\
         [[serve]]\nissuer = \"pods\"\nnamespaces = \"team-*\"\n[csi]\ntokens_only = [\"team-shared\"]\n"
    ));
    let pod = |namespace: &str| {
        let pod = Pod::new(namespace, "8f6b2c1e").unwrap();
        let named = CallerId::Job(pod.job());
        (Peer::Pod(Presence::new(pod)), named.to_string(), None)
    };
    let named = |peer: Peer, caller: &str, job: &str| {
        (peer, caller.to_owned(), Some(Namespace::new(job, "1").unwrap()))
    };
    for ((peer, name, namespace), is_served) in [
        (named(user(0), "uid 0", "user/root"), true),
        (named(beside(0), "uid 0 of the node", "x"), true),
        (named(user(1000), "uid 1000", "x"), false),
        (named(remote(Some(&["agent.example"])), "certificate agent.example", "acme/app"), true),
        (named(remote(Some(&["agent"])), "certificate agent", "acme/app"), false),
        (pod("team-a"), true),
        (pod("other"), false),
        // Each of its calls is refused without a token.
        (pod("team-shared"), false),
    ] {
        let caller = identify(&identities, &peer);
        let explained = identities.explain(&name, namespace);
        assert_eq!((caller.is_ok(), explained.is_ok()), (is_served, is_served), "{name}");
        if let (Ok(caller), Ok(explained)) = (caller, explained) {
            assert_eq!((caller.to_string(), caller.rules()), (name, explained.rules()));
        }
    }
}
