//! Tests of the command line's arguments, on directories made by each test.

use std::os::{fd::AsRawFd as _, unix::fs::symlink};

use super::*;
use crate::{client::sync::tests::Scratch, wire::v1::FileSync};

async fn open(context: &Path, file: Option<&Path>, stdin: &[u8]) -> Result<BuildFiles, SourceError> {
    BuildFiles::open(context, file, None, io::Cursor::new(stdin.to_vec())).await
}

fn paths(source: &BuildFiles, directory: &str, follow: &[&str]) -> Vec<String> {
    let follow_paths = follow.iter().map(|path| (*path).to_owned()).collect();
    let request = FileSync { directory: directory.into(), follow_paths, ..FileSync::default() };
    let tree = source.tree(directory).unwrap();
    tree.entries(&request).unwrap().map(|entry| entry.unwrap().stat.path).collect()
}

/// The content that BuildKit would get for this file.
fn content(source: &BuildFiles, directory: &str, name: &str) -> String {
    let follow_paths = vec![name.to_owned()];
    let tree = source.tree(directory).unwrap().answering(&FileSync { follow_paths, ..FileSync::default() });
    let mut text = String::new();
    std::io::Read::read_to_string(&mut tree.open(name).unwrap(), &mut text).unwrap();
    text
}

#[tokio::test]
async fn a_directory_with_its_dockerfile() {
    let dir = Scratch::new();
    fs::write(dir.path().join("Dockerfile"), "FROM scratch").unwrap();
    fs::write(dir.path().join("other"), "").unwrap();
    let source = open(dir.path(), None, b"").await.unwrap();
    assert_eq!(source.dockerfile(), "Dockerfile");
    let told: Vec<_> = source.directories().into_iter().map(|dir| (dir.name, dir.path)).collect();
    let path = fs::canonicalize(dir.path()).unwrap().to_str().unwrap().to_owned();
    assert_eq!(told, [("context".to_owned(), path.clone()), ("dockerfile".to_owned(), path)]);
    assert_eq!(paths(&source, "context", &[]), ["Dockerfile", "other"]);
    // The Dockerfile's directory offers only the Dockerfile and its ignore file.
    assert_eq!(paths(&source, "dockerfile", &[]), ["Dockerfile"]);
    assert_eq!(paths(&source, "dockerfile", &["other"]), [""; 0]);
    assert_eq!(paths(&source, "dockerfile", &["."]), ["Dockerfile"]);
    assert_eq!(paths(&source, "dockerfile", &["Dockerfile", "Dockerfile.dockerignore"]), ["Dockerfile"]);
}

#[tokio::test]
async fn a_dockerfile_that_the_shell_has_opened() {
    let (dir, elsewhere) = (Scratch::new(), Scratch::new());
    fs::write(dir.path().join(".dockerignore"), "x").unwrap();
    fs::write(elsewhere.path().join("text"), "FROM x").unwrap();
    for fds in ["/dev/fd", "/proc/self/fd"] {
        let (pipe, mut end) = io::pipe().unwrap();
        io::Write::write_all(&mut end, b"FROM scratch").unwrap();
        drop(end);
        let file = PathBuf::from(format!("{fds}/{}", pipe.as_raw_fd()));
        let source = open(dir.path(), Some(&file), b"").await.unwrap();
        assert_eq!((source.dockerfile(), source.dockerfile_text()), ("Dockerfile", &b"FROM scratch"[..]));
        assert_eq!(paths(&source, "context", &[]), [".dockerignore"]);

        let file = fs::File::open(elsewhere.path().join("text")).unwrap();
        let file = PathBuf::from(format!("{fds}/{}", file.as_raw_fd()));
        let link = dir.path().join("Dockerfile");
        symlink(&file, &link).unwrap();
        assert!(open(dir.path(), None, b"").await.is_err(), "a link of the repository names no open file");
        fs::remove_file(link).unwrap();
    }
    let missing = open(dir.path(), Some(Path::new("/dev/fd/9999")), b"").await;
    assert!(matches!(missing, Err(SourceError::DockerfileNotFound(_))));
}

#[tokio::test]
async fn the_path_is_relative_to_the_workspace() {
    let dir = Scratch::new();
    fs::create_dir_all(dir.path().join("ws/app/docker")).unwrap();
    let dockerfile = dir.path().join("ws/app/docker/prod");
    fs::write(&dockerfile, "FROM scratch").unwrap();
    let workspace = dir.path().join("ws");
    let told = |context: PathBuf| {
        let (dockerfile, workspace) = (dockerfile.clone(), workspace.clone());
        async move {
            let source =
                BuildFiles::open(&context, Some(&dockerfile), Some(&workspace), tokio::io::empty()).await;
            source.unwrap().directories().into_iter().map(|dir| dir.path).collect::<Vec<_>>()
        }
    };
    assert_eq!(told(workspace.join("app")).await, ["app", "app/docker"]);
    assert_eq!(told(workspace.clone()).await, [".", "app/docker"]);
    let outside = fs::canonicalize(dir.path()).unwrap();
    assert_eq!(told(dir.path().to_owned()).await, [outside.to_str().unwrap(), "app/docker"]);
}

#[tokio::test]
async fn dockerfiles_by_other_names() {
    let dir = Scratch::new();
    fs::create_dir(dir.path().join("context")).unwrap();
    fs::write(dir.path().join("context/dockerfile"), "FROM scratch").unwrap();
    let source = open(&dir.path().join("context"), None, b"").await.unwrap();
    assert_eq!(source.dockerfile(), "dockerfile");

    fs::write(dir.path().join("prod"), "FROM scratch").unwrap();
    fs::write(dir.path().join("prod.dockerignore"), "x").unwrap();
    let source = open(&dir.path().join("context"), Some(&dir.path().join("prod")), b"").await.unwrap();
    assert_eq!(source.dockerfile(), "prod");
    assert_eq!(paths(&source, "dockerfile", &["prod", "prod.dockerignore"]), ["prod", "prod.dockerignore"]);

    // A link whose target is in its own directory or in the context is sent as its target, under the link's
    // name.
    symlink("prod", dir.path().join("link")).unwrap();
    fs::write(dir.path().join("link.dockerignore"), "y").unwrap();
    let source = open(&dir.path().join("context"), Some(&dir.path().join("link")), b"").await.unwrap();
    assert_eq!(paths(&source, "dockerfile", &["link", "prod"]), ["link"]);
    assert_eq!(content(&source, "dockerfile", "link"), "FROM scratch");
    assert_eq!(content(&source, "dockerfile", "link.dockerignore"), "y");
    symlink("context/dockerfile", dir.path().join("inside")).unwrap();
    let source = open(&dir.path().join("context"), Some(&dir.path().join("inside")), b"").await.unwrap();
    assert_eq!(content(&source, "dockerfile", "inside"), "FROM scratch");
}

/// A repository with links that lead out of it, beside files of the user.
fn repository() -> Scratch {
    let dir = Scratch::new();
    for path in ["repo/docker", "home/.docker"] {
        fs::create_dir_all(dir.path().join(path)).unwrap();
    }
    fs::write(dir.path().join("home/.docker/Dockerfile"), "secret").unwrap();
    fs::write(dir.path().join("repo/good"), "FROM scratch").unwrap();
    for (link, target) in [
        ("repo/relative", "../home/.docker/Dockerfile"),
        ("repo/proc", "/proc/self/environ"),
        ("repo/root", "/proc/self/root/etc/passwd"),
        ("repo/chain", "docker/next"),
        ("repo/docker/next", "../relative"),
        ("repo/directory", "../home/.docker"),
        ("repo/Dockerfile", "relative"),
        ("repo/inner", "directory"),
        ("user", "home"),
    ] {
        symlink(target, dir.path().join(link)).unwrap();
    }
    symlink(dir.path().join("home/.docker/Dockerfile"), dir.path().join("repo/absolute")).unwrap();
    dir
}

#[tokio::test]
async fn no_link_of_a_repository_is_followed_out_of_it() {
    let dir = repository();
    let at = |path: &str| dir.path().join(path);
    let files = [
        "relative",
        "proc",
        "root",
        "chain",
        "Dockerfile",
        "absolute",
        "directory/Dockerfile",
        "inner/Dockerfile",
    ];
    for file in files {
        let error = open(&at("repo"), Some(&at("repo").join(file)), b"").await.unwrap_err();
        let link = file.split('/').next().unwrap();
        assert!(matches!(error, SourceError::LeadsOut { .. }), "{file}: {error}");
        assert!(error.to_string().contains(&format!("/repo/{link}\" is a link")), "{error}");
    }
    assert!(matches!(open(&at("repo"), None, b"").await.unwrap_err(), SourceError::LeadsOut { .. }));
    // Links that the user types or has made are followed.
    for file in ["home/.docker/Dockerfile", "user/.docker/Dockerfile"] {
        let source = open(&at("repo"), Some(&at(file)), b"").await.unwrap();
        assert_eq!(content(&source, "dockerfile", "Dockerfile"), "secret", "{file}");
    }
    // If the context is a part of the workspace, its links count as the repository's too.
    for (context, file) in [("repo/directory", "repo/good"), ("repo/docker", "repo/directory/Dockerfile")] {
        let (context, file) = (at(context), at(file));
        open(&context, Some(&file), b"").await.unwrap();
        let workspace = at("repo");
        let opened = BuildFiles::open(&context, Some(&file), Some(&workspace), tokio::io::empty()).await;
        let error = opened.unwrap_err().to_string();
        assert!(error.contains("/repo/directory\" is a link that leads out of the workspace"), "{error}");
    }
}

#[tokio::test]
async fn an_ignore_file_that_is_there_is_used() {
    let dir = Scratch::new();
    let at = |path: &str| dir.path().join(path);
    fs::create_dir_all(at("context/rules")).unwrap();
    fs::write(at("context/rules/ignored"), "secret").unwrap();
    fs::write(at("context/Dockerfile"), "FROM scratch").unwrap();
    fs::write(at("shared"), "secret").unwrap();
    let ignore = at("context/.dockerignore");
    // An absolute link would be resolved in the context by BuildKit, which would not find the target.
    symlink(at("context/rules/ignored"), &ignore).unwrap();
    let source = open(&at("context"), None, b"").await.unwrap();
    assert_eq!(content(&source, "context", ".dockerignore"), "secret");
    // In the context itself the file stays a link.
    assert!(paths(&source, "context", &["rules"]).contains(&"rules/ignored".to_owned()));
    let source = open(&at("context"), Some(Path::new("-")), b"FROM scratch").await.unwrap();
    assert_eq!(content(&source, "context", ".dockerignore"), "secret");

    let own = at("context/Dockerfile.dockerignore");
    for path in [&ignore, &own] {
        let _ = fs::remove_file(path);
        for target in ["../shared", "absent", ".dockerignore", "/proc/self/environ", "rules"] {
            symlink(target, path).unwrap();
            let error = open(&at("context"), None, b"").await.unwrap_err().to_string();
            assert!(error.contains(path.to_str().unwrap()), "{target}: {error}");
            fs::remove_file(path).unwrap();
        }
        let socket = std::os::unix::net::UnixListener::bind(path).unwrap();
        assert!(
            open(&at("context"), None, b"").await.unwrap_err().to_string().contains(path.to_str().unwrap())
        );
        drop(socket);
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
        let error = open(&at("context"), None, b"").await.unwrap_err();
        assert!(matches!(error, SourceError::IgnoreNotAFile(_)), "{error}");
        fs::remove_dir(path).unwrap();
    }
    // If the Dockerfile has an ignore file of its own, BuildKit reads no other.
    fs::write(&own, "own").unwrap();
    symlink("../shared", &ignore).unwrap();
    let source = open(&at("context"), None, b"").await.unwrap();
    assert_eq!(content(&source, "dockerfile", "Dockerfile.dockerignore"), "own");
}

#[tokio::test]
async fn a_dockerfile_from_stdin() {
    let dir = Scratch::new();
    fs::write(dir.path().join("f"), "").unwrap();
    let source = open(dir.path(), Some(Path::new("-")), b"FROM scratch\n").await.unwrap();
    assert_eq!(paths(&source, "context", &[]), ["f"]);
    assert_eq!(paths(&source, "dockerfile", &["Dockerfile"]), ["Dockerfile"]);
    let mut source = open(Path::new("-"), None, b"FROM scratch\n").await.unwrap();
    assert!(source.take_tar().is_none());
    assert_eq!(paths(&source, "context", &[]), [""; 0]);
    assert_eq!(
        (source.dockerfile(), paths(&source, "dockerfile", &[])),
        ("Dockerfile", vec!["Dockerfile".into()])
    );
}

#[tokio::test]
async fn a_tar_from_stdin_is_passed_on_whole() {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(13);
    header.set_cksum();
    builder.append_data(&mut header, "build/Dockerfile", &b"FROM scratch\n"[..]).unwrap();
    let tar = builder.into_inner().unwrap();
    let mut source = open(Path::new("-"), Some(Path::new("build/Dockerfile")), &tar).await.unwrap();
    assert_eq!((source.dockerfile(), source.directories()), ("build/Dockerfile", Vec::new()));
    let mut passed = Vec::new();
    source.take_tar().unwrap().read_to_end(&mut passed).await.unwrap();
    assert_eq!(passed, tar);
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let dir = Scratch::new();
    let here = dir.path().to_str().unwrap();
    fs::create_dir(dir.path().join("empty")).unwrap();
    fs::create_dir(dir.path().join("empty/sub")).unwrap();
    let (none, stdin) = (None, Some("-"));
    let cases: [(&str, Option<&str>, &[u8], String); 9] = [
        ("absent", none, b"", format!("unable to prepare context: path \"{here}/absent\" not found")),
        (
            "empty",
            none,
            b"",
            format!("failed to read dockerfile: \"{here}/empty/Dockerfile\" does not exist; name another one with -f"),
        ),
        (
            "empty",
            Some("empty/sub"),
            b"",
            format!("failed to read dockerfile: \"{here}/empty/sub\" is not a file; name the Dockerfile itself with -f"),
        ),
        ("empty", stdin, b"", "standard input is empty: expected a Dockerfile".into()),
        ("empty", stdin, b" \n", "standard input is empty: expected a Dockerfile".into()),
        ("-", none, b"", "standard input is empty: expected a Dockerfile, or a tar of the context".into()),
        ("-", stdin, b"", "invalid argument: can't use stdin for both build context and dockerfile".into()),
        (
            "-",
            Some("prod"),
            b"FROM scratch",
            "ambiguous Dockerfile source: both stdin and -f name a Dockerfile; leave out -f, or send a tar of \
             the context on stdin"
                .into(),
        ),
        (
            "https://example.org/x.git",
            none,
            b"",
            "unable to prepare context: https://example.org/x.git is a URL; fetch or clone it and name the directory"
                .into(),
        ),
    ];
    for (context, file, input, expected) in cases {
        let at =
            |path: &str| if path == "-" || path.contains(':') { path.into() } else { dir.path().join(path) };
        let file = file.map(at);
        let error = open(&at(context), file.as_deref(), input).await.unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}
