use clap::Parser as _;

use super::{engines::ENGINE, *};

fn flags(words: &[&str]) -> Flags {
    Flags::try_parse_from(std::iter::once(&"wharfd").chain(words)).unwrap()
}

pub(super) fn load(words: &[&str], file: &str) -> Result<Config, ConfigError> {
    Config::resolve(flags(words), Some((Path::new("w.toml"), file)), None)
}

pub(super) fn error(file: &str) -> String {
    load(&[], file).unwrap_err().to_string()
}

#[test]
fn without_anything_there_is_one_engine_and_one_socket() {
    let config = Config::resolve(flags(&[]), None, None).unwrap();
    assert_eq!(config.listen, ["unix:///run/wharf/wharf.sock".parse().unwrap()]);
    assert_eq!(config.listen_mode.bits(), 0o660);
    assert_eq!(config.engines.default_name().as_str(), "default");
    assert_eq!(config.engines.sockets[config.engines.default_name()].to_string(), ENGINE);
    assert_eq!(config.grace_period, Duration::from_secs(25));
    assert!(config.serve.is_empty());
}

#[test]
fn the_engine_is_the_flag_then_docker_host() {
    let host = || Some("unix:///run/a.sock".to_owned());
    let engine = |config: Config| config.engines.sockets[config.engines.default_name()].to_string();
    let config = Config::resolve(flags(&[]), None, host()).unwrap();
    assert_eq!(engine(config), "unix:///run/a.sock");
    let config = Config::resolve(flags(&["--engine", "unix:///run/b.sock"]), None, host()).unwrap();
    assert_eq!(engine(config), "unix:///run/b.sock");
    let refused = Config::resolve(flags(&[]), None, Some("tcp://10.0.0.1:2375".to_owned())).unwrap_err();
    let refused = refused.to_string();
    assert!(
        refused.starts_with("DOCKER_HOST: `tcp://10.0.0.1:2375`: `tcp://` is not supported"),
        "{refused}"
    );
    assert!(refused.contains("cannot guarantee"), "{refused}");
}

const TWO: &str = r#"
listen = ["unix:///run/w.sock"]
listen_mode = "0666"
grace_period = "2m"
default_engine = "shared"

[engines.shared]
socket = "unix:///run/shared.sock"

[engines.secure]
socket = "unix:///run/secure.sock"

[[serve]]
uid = 1000
namespaces = "acme/*"
engine = "secure"
at_once = 3

[[serve]]
uid = 1001
namespaces = "*"
"#;

#[test]
fn a_file_names_engines_and_who_is_served() {
    let config = load(&[], TWO).unwrap();
    assert_eq!(config.listen_mode.bits(), 0o666);
    assert_eq!(config.grace_period, Duration::from_secs(120));
    let served = config.serve.iter().map(|serve| (&serve.who, serve.engine.as_str(), serve.at_once));
    let expected = [(&Who::Uid(1000), "secure", 3), (&Who::Uid(1001), "shared", AT_ONCE)];
    assert_eq!(served.collect::<Vec<_>>(), expected);
    assert!(config.serve[0].namespaces.matches("acme/app"));
}

#[test]
fn flags_override_the_file() {
    let words = ["--listen", "unix:///a.sock", "--listen", "unix:///b.sock", "--listen-mode", "0600"];
    let config = load(&words, TWO).unwrap();
    assert_eq!(config.listen.len(), 2);
    assert_eq!(config.listen_mode.bits(), 0o600);
    let config = load(&["--engine", "unix:///c.sock"], TWO).unwrap();
    let sockets: Vec<_> = config.engines.iter().map(|(name, socket)| format!("{name} {socket}")).collect();
    assert_eq!(sockets, ["secure unix:///run/secure.sock", "shared unix:///c.sock"]);
}

#[test]
fn the_client_goes_nowhere_or_where_it_is_said() {
    assert_eq!(load(&[], "").unwrap().client_dir, None);
    let file = "client_dir = \"/run/wharf/bin\"\n";
    assert_eq!(load(&[], file).unwrap().client_dir.as_deref(), Some(Path::new("/run/wharf/bin")));
    let flag = load(&["--client-dir", "/opt/wharf"], file).unwrap();
    assert_eq!(flag.client_dir.as_deref(), Some(Path::new("/opt/wharf")));
    let wrong = error("client_dir = \"bin\"\n");
    assert!(wrong.starts_with("bin is not an absolute path"), "{wrong}");
}

#[test]
fn a_mistake_names_file_line_and_key() {
    let wrong = error("listen_mode = \"0660\"\nlisten_mod = \"0660\"\n");
    assert!(wrong.starts_with("w.toml:2: unknown field `listen_mod`"), "{wrong}");
    let wrong = error("[engines.a]\nsocket = \"unix:///a\"\nsockt = 1\n");
    assert!(wrong.starts_with("w.toml:3: unknown field `sockt`"), "{wrong}");
    let wrong = error("\n[[serve]]\nuid = 1\nnamespaces = \"a*b\"\n");
    assert_eq!(wrong, "w.toml:4: `a*b`: `*` can only be the last character");
    let wrong = error("[[serve]]\nuid = \"jenkins\"\nnamespaces = \"*\"\n");
    assert_eq!(wrong, "w.toml:2: uid: expected a numeric uid, as `id -u USER` prints it");
    let wrong = error("[[serve]]\nuid = 1\nnamespaces = \"*\"\nat_once = 0\n");
    assert!(wrong.starts_with("w.toml:4: "), "{wrong}");
    let wrong = error("[[serve]]\nuid = 1\n");
    assert!(wrong.starts_with("w.toml:1: missing field `namespaces`"), "{wrong}");
    let wrong = error("[engines.a]\nsocket = \"tcp://a:1\"\n");
    assert!(wrong.starts_with("w.toml:2: `tcp://a:1`"), "{wrong}");
    let wrong = error("[engines.\"a b\"]\nsocket = \"unix:///a\"\n");
    assert!(wrong.starts_with("w.toml:1: `a b` is not an engine's name"), "{wrong}");
    let wrong = error("grace_period = \"soon\"\n");
    assert!(wrong.starts_with("w.toml:1: `soon` is not a time"), "{wrong}");
    let wrong = error("listen_mode = 660\n");
    assert!(wrong.starts_with("w.toml:1: "), "{wrong}");
    let wrong = error("a = = 1\n");
    assert!(wrong.starts_with("w.toml:1: "), "{wrong}");
}

#[test]
fn engines_that_are_named_must_be_there() {
    let one = "[engines.a]\nsocket = \"unix:///a\"\n";
    assert_eq!(load(&[], one).unwrap().engines.default_name().as_str(), "a");
    let wrong = error(&format!("default_engine = \"b\"\n{one}"));
    assert_eq!(wrong, "w.toml:1: default_engine: no engine `b`; there are: a");
    let wrong = error(&format!("{one}[engines.b]\nsocket = \"unix:///b\"\n"));
    assert!(wrong.contains("no default_engine"), "{wrong}");
    let wrong = error(&format!("{one}[[serve]]\nuid = 1\nnamespaces = \"*\"\nengine = \"x\"\n"));
    assert_eq!(wrong, "w.toml:6: serve.engine: no engine `x`; there are: a");
}

#[test]
fn two_names_are_two_engines() {
    let wrong = error(
        "default_engine = \"a\"\n[engines.a]\nsocket = \"unix:///x\"\n[engines.b]\nsocket = \"unix:///x\"\n",
    );
    assert_eq!(
        wrong,
        "w.toml: engines.a and engines.b are the same engine, unix:///x: nothing would keep their jobs apart"
    );
}

#[test]
fn a_policy_is_one_entry_for_some_jobs() {
    let entry = |name: &str, jobs: &str| format!("[[policy]]\nname = \"{name}\"\njobs = {jobs}\n");
    assert_eq!(load(&[], "").unwrap().policy, None);
    let two = entry("requests", "[\"acme/app/PR-*\"]") + &entry("acme", "[\"acme/*\", \":ci:acme/*\"]");
    let policy = load(&[], &two).unwrap().policy.unwrap();
    let [requests, acme] = policy.as_slice() else { panic!("{policy:?}") };
    assert_eq!((requests.name.to_string(), acme.jobs.len()), ("requests".to_owned(), 2));
    assert!(
        acme.pull.is_empty() && acme.push.is_empty() && acme.node_images.is_empty() && acme.add.is_empty()
    );
    assert_eq!(acme.networks, [StepNetwork::Default, StepNetwork::None]);
    for (file, why) in [
        (entry("a", "[]"), "`jobs` is empty"),
        (entry("a", "[\"x\"]") + &entry("a", "[\"y\"]"), "an earlier entry has the same name"),
        (entry("a", "[\"x/*\"]") + &entry("b", "[\"y\", \"x/z\"]"), "never used for `x/z`"),
        (entry("a b", "[\"x\"]"), "`a b` is not a policy's name"),
        (entry("a", "[\"x\"]") + "pull = [\"reg/team*\"]\n", "everything below a `/`"),
        (entry("a", "[\"x\"]") + "add = [\"*.example.com\"]\n", "neither a host"),
        (entry("a", "[\"x\"]") + "networks = [\"host\"]\n", "unknown variant `host`"),
        (entry("a", "[\"x\"]") + "pulls = []\n", "unknown field `pulls`"),
        ("[[policy]]\nname = \"a\"\n".to_owned(), "missing field `jobs`"),
    ] {
        let wrong = error(&file);
        assert!(wrong.contains(why) && wrong.starts_with("w.toml:"), "{file}: {wrong}");
    }
}

#[test]
fn a_uid_is_served_once() {
    let wrong = error("[[serve]]\nuid = 1\nnamespaces = \"*\"\n\n[[serve]]\nuid = 1\nnamespaces = \"a\"\n");
    assert_eq!(wrong, "w.toml:5: serve: an earlier entry already serves uid 1");
}

#[test]
fn an_entry_serves_a_uid_a_token_or_an_issuer() {
    let issuer = "[issuers.ci]\npreset = \"jenkins\"\nissuer = \"https://ci/oidc\"\naudience = \"wharf\"\njwks = \"/j\"\n";
    let hash = "0123456789abcdefABCDEF0000000000000000000000000000000000000000ff";
    let ci = "[[serve]]\nissuer = \"ci\"\nnamespaces = \"ci/*\"\n";
    let served = |who: &str| {
        load(
            &[],
            &format!(
                "{issuer}[[serve]]\n{who}\nnamespaces = \"*\"\n{}",
                if who.contains("issuer") { "" } else { ci }
            ),
        )
    };
    let config = served(&format!("token = \"nightly\"\nsha256 = \"{hash}\"")).unwrap();
    assert!(
        matches!(&config.serve[0].who, Who::Token { name, hash } if name.as_str() == "nightly" && hash.0[31] == 255)
    );
    let config = served("issuer = \"ci\"").unwrap();
    assert_eq!(config.serve[0].who, Who::Issuer("ci".to_owned().try_into().unwrap()));
    let jenkins = Jenkins { root: "https://ci".to_owned(), folder: None };
    assert_eq!(config.issuers.values().next().unwrap().job, JobName::Jenkins(jenkins));
    for (who, why) in [
        ("", "needs one of `uid`, `certificate`, `issuer`, or `token`"),
        ("uid = 1\nissuer = \"ci\"", "needs one of"),
        ("token = \"nightly\"", "needs one of"),
        ("token = \"nightly\"\nsha256 = \"12\"", "64 hexadecimal digits"),
        ("token = \"a b\"\nsha256 = \"12\"", "`a b` is not"),
        ("issuer = \"gitlab\"", "there is no [issuers.gitlab]"),
    ] {
        let wrong = served(who).unwrap_err().to_string();
        assert!(wrong.contains(why) && wrong.starts_with("w.toml:"), "{who}: {wrong}");
    }
    let two = |hashes: [&str; 2], names: [&str; 2]| {
        let entry = |at: usize| {
            format!("[[serve]]\ntoken = \"{}\"\nsha256 = \"{}\"\nnamespaces = \"*\"\n", names[at], hashes[at])
        };
        load(&[], &(entry(0) + &entry(1))).map_err(|error| error.to_string())
    };
    let other = hash.replace("ff", "fe");
    assert!(two([hash, &other], ["a", "b"]).is_ok());
    assert!(two([hash, hash], ["a", "b"]).unwrap_err().contains("already serves token a"));
    assert!(two([hash, &other], ["a", "a"]).unwrap_err().contains("already serves token a"));
}

#[test]
fn an_issuer_is_whole() {
    let issuer = |lines: &str| {
        let serve = "[[serve]]\nissuer = \"ci\"\nnamespaces = \"*\"\n";
        let file =
            format!("[issuers.ci]\nissuer = \"https://ci/oidc\"\naudience = \"wharf\"\n{lines}{serve}");
        load(&[], &file).map(|config| config.issuers.into_values().next().unwrap())
    };
    let jwks = "jwks = \"/j\"\n";
    let own = issuer(&format!("{jwks}job = \"{{+project}}\"\nrun = \"{{id}}\"\n")).unwrap();
    assert_eq!(own.algorithms, [Algorithm::RS256, Algorithm::ES256]);
    for preset in ["jenkins", "gitlab", "github", "kubernetes"] {
        assert!(
            issuer(&format!("{jwks}preset = \"{preset}\"\nalgorithms = [\"EdDSA\"]\n")).is_ok(),
            "{preset}"
        );
    }
    for (lines, why) in [
        ("", "missing field `jwks`"),
        ("jwks = \"j\"\npreset = \"jenkins\"\n", "not an absolute path"),
        (jwks, "needs `preset`, or both"),
        ("jwks = \"/j\"\njob = \"{a}\"\n", "needs `preset`, or both"),
        ("jwks = \"/j\"\njob = \"a\"\nrun = \"{b}\"\n", "not a template of claims"),
        ("jwks = \"/j\"\npreset = \"jenkins\"\nalgorithms = []\n", "accepts no token"),
        ("jwks = \"/j\"\npreset = \"jenkins\"\nalgorithms = [\"HS256\"]\n", "HS256"),
        ("jwks = \"/j\"\npreset = \"jenkins\"\nalgorithms = [\"none\"]\n", "none"),
    ] {
        let wrong = issuer(lines).unwrap_err().to_string();
        assert!(wrong.contains(why) && wrong.starts_with("w.toml:"), "{lines}: {wrong}");
    }
    let same = "issuer = \"https://ci/oidc\"\naudience = \"w\"\njwks = \"/j\"\npreset = \"jenkins\"\n";
    let wrong = error(&format!("[issuers.a]\n{same}[issuers.b]\n{same}"));
    assert!(wrong.contains("the same `issuer`"), "{wrong}");
    let serve = |namespaces: &str| format!("[[serve]]\nissuer = \"a\"\nnamespaces = \"{namespaces}\"\n");
    let wrong = error(&format!("[issuers.a]\n{same}"));
    assert!(wrong.starts_with("w.toml:1: issuers.a: no [[serve]] entry"), "{wrong}");
    let two =
        |one: &str, other: &str| load(&[], &format!("[issuers.a]\n{same}{}{}", serve(one), serve(other)));
    assert!(two("acme/*", "*").is_ok());
    assert!(two("*", "acme/*").unwrap_err().to_string().contains("never used"));
}

const TLS: &str = "[tls]\ncertificate = \"/c\"\nkey = \"/k\"\n";

#[test]
fn tcp_without_tls_is_refused_unless_the_operator_says_that_it_is_known() {
    let tcp = ["--listen", "tcp://0.0.0.0:2376"];
    let plain = ["--listen", "tcp://0.0.0.0:2376", "--dangerous-plain-tcp"];
    let refused = load(&tcp, "").unwrap_err().to_string();
    assert!(refused.starts_with("--listen: tcp://0.0.0.0:2376 needs [tls]"), "{refused}");
    assert!(error("listen = [\"unix:///a\", \"tcp://[::1]:1\"]\n").contains("tcp://[::1]:1 needs [tls]"));
    assert_eq!(load(&plain, "").unwrap().tls, None);
    assert_eq!(load(&tcp, "dangerous_plain_tcp = true\n").unwrap().tls, None);
    let tls = load(&tcp, TLS).unwrap().tls.unwrap();
    assert_eq!((tls.certificate.to_str(), tls.key.to_str(), tls.client_ca), (Some("/c"), Some("/k"), None));
    assert!(load(&plain, TLS).unwrap_err().to_string().contains("no effect with [tls]"));
    assert_eq!(load(&[], "").unwrap().tls, None, "nothing changes for Unix sockets");
    for (key, wrong) in [("certificate", "/c"), ("key", "/k")] {
        let relative = error(&TLS.replace(wrong, "tls.pem"));
        assert!(relative.contains(&format!("tls.{key}: tls.pem is not an absolute path")), "{relative}");
    }
    let relative = error(&format!("{TLS}client_ca = \"ca\"\n"));
    assert!(relative.contains("tls.client_ca: ca is not"), "{relative}");
    assert!(error("[tls]\ncertificate = \"/c\"\n").contains("missing field `key`"));
}

#[test]
fn a_certificate_is_served_once_and_by_an_authority() {
    let entry = |name: &str| format!("[[serve]]\ncertificate = \"{name}\"\nnamespaces = \"*\"\n");
    let with_ca = format!("{TLS}client_ca = \"/ca\"\n");
    let config = load(&[], &format!("{with_ca}{}{}", entry("agent"), entry("spiffe://ci/agent"))).unwrap();
    let names = config.serve.iter().map(|serve| match &serve.who {
        Who::Certificate(name) => name.to_string(),
        other => panic!("{other:?}"),
    });
    assert_eq!(names.collect::<Vec<_>>(), ["agent", "spiffe://ci/agent"]);
    for (file, why) in [
        (entry("agent"), "clients are asked for a certificate only if [tls] has `client_ca`"),
        (
            format!("{TLS}{}", entry("agent")),
            "clients are asked for a certificate only if [tls] has `client_ca`",
        ),
        (format!("{with_ca}{}{}", entry("agent"), entry("agent")), "already serves certificate agent"),
        (format!("{with_ca}{}", entry("*.ci.example")), "is not a certificate's name"),
        (format!("{with_ca}{}uid = 1\n", entry("agent")), "needs one of"),
    ] {
        let wrong = error(&file);
        assert!(wrong.contains(why) && wrong.starts_with("w.toml:"), "{file}: {wrong}");
    }
}

#[test]
fn modes_times_and_groups_are_read_as_people_write_them() {
    assert_eq!("0660".parse::<SocketMode>().unwrap().bits(), 0o660);
    for mode in ["", "8", "07777", "rw", "+7"] {
        assert!(mode.parse::<SocketMode>().is_err(), "{mode}");
    }
    assert_eq!(parse_seconds("90"), Ok(Duration::from_secs(90)));
    assert_eq!(parse_seconds("1h"), Ok(Duration::from_secs(3600)));
    assert!(parse_seconds("s").is_err() && parse_seconds("").is_err() && parse_seconds("-1").is_err());
    assert_eq!(group_id("root".to_owned()).unwrap(), 0);
    assert!(matches!(group_id("no-such-group".to_owned()), Err(ConfigError::Group(_))));
}

#[test]
fn help_is_well_formed() {
    <Flags as clap::CommandFactory>::command().debug_assert();
}

#[test]
fn pods_are_served_where_an_entry_says_so() {
    let pods = "[[serve]]\nissuer = \"pods\"\nnamespaces = \"team-*\"\n";
    let csi = load(&[], &format!("[csi]\n{pods}")).unwrap().csi.unwrap();
    assert_eq!(csi.pods_dir(), Path::new("/var/lib/kubelet/pods"));
    assert_eq!(csi.socket.to_string(), "unix:///var/lib/kubelet/plugins/csi.wharf.dev/csi.sock");
    let registration = "unix:///k/plugins_registry/csi.wharf.dev-reg.sock";
    let elsewhere = load(&[], &format!("[csi]\nkubelet_dir = \"/k\"\n{pods}")).unwrap();
    assert_eq!(elsewhere.csi.as_ref().unwrap().registration.to_string(), registration);
    assert!(elsewhere.kept(&load(&[], &format!("[csi]\n{pods}")).unwrap()).contains(&"csi"));
    let token = format!("[[serve]]\ntoken = \"t\"\nsha256 = \"{}\"\nnamespaces = \"*\"\n", "0".repeat(64));
    assert!(load(&[], &format!("[csi]\ntokens_only = [\"*\"]\n{token}")).is_ok());
    let issuer = "[issuers.pods]\npreset = \"jenkins\"\nissuer = \"https://ci/oidc\"\naudience = \"wharf\"\njwks = \"/j\"\n";
    for (file, why) in [
        ("[csi]\n".to_owned(), "no [[serve]] entry serves pods"),
        (pods.to_owned(), "there is no [csi]"),
        (format!("[csi]\n{issuer}{pods}"), "[issuers.pods] has"),
        (format!("[csi]\ntokens_only = [\"*\"]\n{pods}"), "to present"),
        (format!("[csi]\nkubelet_dir = \"k\"\n{pods}"), "not an absolute path"),
        (format!("[csi]\nkubelet_dir = \"/{}\"\n{pods}", "k".repeat(90)), "at most 107"),
        (format!("[csi]\nsocket = \"/x\"\n{pods}"), "unknown field"),
    ] {
        let wrong = error(&file);
        assert!(wrong.contains(why) && wrong.starts_with("w.toml:"), "{file}: {wrong}");
    }
}

#[test]
fn a_pattern_of_jobs_names_an_issuer_that_there_is() {
    let policy = |jobs: &str| format!("[[policy]]\nname = \"p\"\njobs = [\"{jobs}\"]\n");
    let issuer = "[issuers.ci]\npreset = \"jenkins\"\nissuer = \"https://ci.example/oidc\"\naudience = \"wharf\"\n\
                  jwks = \"/j\"\n[[serve]]\nissuer = \"ci\"\nnamespaces = \"*\"\n";
    for jobs in ["ci:acme/*", "ci*", ":ci:acme/*", "a/b:c"] {
        assert!(load(&[], &(policy(jobs) + issuer)).is_ok(), "{jobs}");
    }
    assert!(
        error(&policy("ci:acme/*"))
            .contains("policy `p`: there is no [issuers.ci]; to match names that users claim")
    );
    assert!(error(&policy("pods:build")).contains("no [issuers.pods]"));
    assert!(error(&(policy("ci:") + issuer)).contains("`ci:` names no job; `ci:*` is every job"));
}
