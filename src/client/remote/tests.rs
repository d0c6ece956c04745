use std::fs;

use tokio::{io::AsyncWriteExt as _, net::TcpListener};

use super::*;
use crate::network::{authority::Authority, tests::Dir};

fn plain() -> TlsArgs {
    TlsArgs { dangerous_plain_tcp: true, ..TlsArgs::default() }
}

#[test]
fn an_address_is_a_host_and_a_port() {
    let new = |authority: &str| Remote::new(authority, &plain(), &Env::of(&[]));
    for (authority, named) in [("node:2376", "node"), ("10.0.0.1:1", "10.0.0.1"), ("[::1]:65535", "::1")] {
        let remote = new(authority).unwrap();
        assert_eq!((host(&remote.authority), remote.to_string()), (named, format!("tcp://{authority}")));
    }
    for wrong in
        ["", "node", "node:", "node:0", "node:65536", "user@node:1", "node:1/x", "::1:1", ":1", "a b:1"]
    {
        let failure = new(wrong).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage, "{wrong}: {failure}");
    }
}

#[test]
fn flags_that_do_nothing_are_refused() {
    let file = || Some(PathBuf::from("/x"));
    for (args, flag) in [
        (TlsArgs { tlscacert: file(), ..TlsArgs::default() }, "--tlscacert"),
        (TlsArgs { tlskey: file(), ..TlsArgs::default() }, "--tlskey"),
        (plain(), "--dangerous-plain-tcp"),
    ] {
        assert!(args.are_for_tcp().unwrap_err().text.starts_with(flag));
    }
    TlsArgs::default().are_for_tcp().unwrap();
    let both = TlsArgs { tlscert: file(), ..plain() };
    let failure = Remote::new("node:1", &both, &Env::of(&[])).unwrap_err();
    assert!(failure.text.contains("--tlscert has no effect"), "{failure}");
}

#[test]
fn files_are_those_of_the_flags_then_of_the_variables_and_are_not_quoted() {
    let dir = Dir::new("remote-files");
    let authority = Authority::new(&dir.0);
    let own = authority.issue("own", &["agent"]);
    let [ca, cert, key] =
        [&authority.file(), &own.certificate, &own.key].map(|path| path.display().to_string());
    let env = Env::of(&[("WHARF_TLSCACERT", &ca), ("WHARF_TLSCERT", &cert), ("WHARF_TLSKEY", &key)]);
    let new = |args: &TlsArgs, env: &Env| Remote::new("node:1", args, env);
    assert!(new(&TlsArgs::default(), &env).unwrap().shows_certificate());
    assert!(!new(&TlsArgs::default(), &Env::of(&[("WHARF_TLSCACERT", &ca)])).unwrap().shows_certificate());
    let secret = fs::read_to_string(&own.key).unwrap();
    let secret = secret.lines().nth(1).unwrap();
    let said = |args: TlsArgs, env: &Env| {
        let failure = new(&args, env).unwrap_err();
        assert!(failure.exit == Exit::Usage && !failure.text.contains(secret), "{failure}");
        failure.text
    };
    let flag = |path: &Path| Some(path.to_owned());
    let absent = said(TlsArgs { tlskey: flag(&dir.0.join("none")), ..TlsArgs::default() }, &env);
    assert!(absent.starts_with("--tlskey ") && absent.contains("No such file"), "{absent}");
    let swapped = said(TlsArgs { tlscert: flag(&own.key), ..TlsArgs::default() }, &env);
    assert!(swapped.contains("there is no certificate in it"), "{swapped}");
    let swapped = said(TlsArgs { tlskey: flag(&own.certificate), ..TlsArgs::default() }, &env);
    assert!(swapped.contains("no private key"), "{swapped}");
    fs::write(dir.0.join("damaged"), format!("-----BEGIN PRIVATE KEY-----\n{secret}\n")).unwrap();
    said(TlsArgs { tlskey: flag(&dir.0.join("damaged")), ..TlsArgs::default() }, &env);
    let other = authority.issue("other", &["agent"]);
    said(TlsArgs { tlskey: flag(&other.key), ..TlsArgs::default() }, &env);
    let alone = said(TlsArgs::default(), &Env::of(&[("WHARF_TLSCACERT", &ca), ("WHARF_TLSKEY", &key)]));
    assert!(alone.starts_with("WHARF_TLSKEY: a certificate and its key belong together"), "{alone}");
}

#[tokio::test]
async fn who_is_no_wharfd_is_told_apart() {
    let said = async |greeting: &'static [u8], args: &TlsArgs| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let remote = Remote::new(&address.to_string(), args, &Env::of(&[])).unwrap();
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(greeting).await.unwrap();
        };
        let (connected, ()) = tokio::join!(remote.connect(), serving);
        connected.map(|_| ()).map_err(|failure| failure.text)
    };
    let tls = TlsArgs::default();
    assert!(said(b"SSH-2.0-OpenSSH\r\n", &tls).await.unwrap_err().contains("does not speak TLS"));
    for args in [&tls, &plain()] {
        assert!(said(b"", args).await.unwrap_err().contains("closed the connection"));
    }
    said(b"\0", &plain()).await.unwrap();
    let nowhere = Remote::new("127.0.0.1:1", &tls, &Env::of(&[])).unwrap().connect().await;
    let failure = nowhere.map(|_| ()).unwrap_err();
    assert!(failure.exit == Exit::NoDaemon && failure.text.contains("nothing is listening"), "{failure}");
}
