//! `wharf build`.

use std::{collections::HashMap, future::ready, pin::pin, sync::Arc, time::Duration};

use bytes::BytesMut;
use futures_util::{Stream, StreamExt as _, stream};
use tokio::{
    io::{AsyncReadExt as _, stdin},
    sync::mpsc,
    time,
};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    Call, display,
    display::{Display, Message},
    metadata::{Metadata, Reports},
};
use crate::{
    client::{
        answers::{self, Answers, Client, OpenSession},
        args::BuildArgs,
        context::{Areas, BuildFiles, Tar},
        credentials::DockerConfig,
        env::{self, DOCKER_DEFAULT_PLATFORM, Env, SOURCE_DATE_EPOCH},
        exit::{Exit, Failure, Stop},
        namespace::Named,
        options::given,
        output::Plan,
        platform::{self, Platform},
        print,
        progress::{Mode, Outcome},
        secrets::Secrets,
        summary,
    },
    names::printable,
    wire::v1::{
        BuildFailure, BuildRequest, BuildResponse, BuildResult, BuildSpec, BuildStart, SessionOpen,
        build_request, build_response::Response,
    },
};

/// How long to wait for a cancelled build to report that it has stopped. wharfd stops the build within 2 s
/// even if the client is gone.
const CANCEL_TIMEOUT: Duration = Duration::from_millis(1500);
/// A build ends with its session; wait this long for the build's own, better error.
const REASON_TIMEOUT: Duration = Duration::from_secs(1);
/// The size of a tar's pieces, and how many pieces may wait for the connection.
const PIECE_BYTES: usize = 256 * 1024;
const PIECES_MAX: usize = 2;

/// The build argument that selects warnings about a Dockerfile, like its `# check=` directive.
const CHECK: &str = "BUILDKIT_DOCKERFILE_CHECK";
/// With a Dockerfile of this size, two hundred warnings fit into one message of at most 16 MiB, and wharfd refuses the
/// checks only if it has an instruction or a variable for every 32 bytes.
const CHECKED_BYTES_MAX: usize = 64 * 1024;

/// The end of a build.
enum Ended {
    Built(BuildResult),
    Failed(BuildFailure),
}

pub(super) async fn run(mut call: Call, args: BuildArgs) -> Result<(), Stop> {
    // Check everything that can be checked here before calling wharfd.
    let mode = display::mode(&call, args.progress, args.quiet)?;
    let plan = Plan::of(&args)?;
    conflicts(&args, &plan)?;
    let namespace = call.namespace()?;
    let (address, token) = (call.address()?, call.token()?);
    let docker = DockerConfig::read(&call.env)?.with_logins(&args.logins.flags, plan.names(), &call.env)?;
    // The checkout's location, which differs between agents and runs.
    let workspace = call.env.path(env::WORKSPACE);
    let secrets = Secrets::find(&args.secrets, &call.env, &Areas::of(&args.context, workspace.as_deref()))?;
    let mut spec = spec(&args, &plan, &call.env, &docker)?;
    // An id would be taken for a part of an output on standard output.
    let prints_id = mode == Mode::Quiet && plan.has_image() && !plan.uses_stdout();
    let checkouts = call.checkouts(Some(args.context.as_path()));
    let sinks = plan.open(&checkouts)?;
    let reports = Reports::prepare(&args, &checkouts)?;
    for (flag, why) in args.unused.missed() {
        print::note(format_args!("WARN: `{flag}` has no effect: {why}"));
    }
    let prepare = async {
        let source =
            BuildFiles::open(&args.context, given(args.file.as_deref()), workspace.as_deref(), stdin())
                .await
                .map_err(|error| Failure::usage(error.to_string()))?;
        Ok((source, address.connect(token).await?))
    };
    let (mut source, connection) = call.signals.guard(prepare).await?;
    source.dockerfile().clone_into(&mut spec.dockerfile);
    leave_checks_out(source.dockerfile_text(), &mut spec.build_args);
    let tar = source.take_tar();
    let answers = Arc::new(Answers::new(docker, secrets, &source, sinks));

    let mut display = Display::new(call.env.console(), mode, "Building");
    let ended =
        build(&mut call, answers::client(connection), &namespace, spec, tar, &answers, &mut display).await;
    // wharfd sees only a stream that broke; the reason is here.
    let stopped = answers.sinks.take_stop().filter(|_| !matches!(ended, Err(Stop::Cancelled(_))));
    if let Some(stop) = stopped {
        display.finish(Outcome::Stopped);
        // Unlike a result that nobody wants to read: the build is broken off, with its other outputs and its push.
        return Err(match stop {
            Stop::OutputClosed => {
                Failure::new(Exit::Failed, "standard output was closed before the output was complete").into()
            }
            stop => stop,
        });
    }
    match ended {
        Ok(Ended::Built(result)) => {
            display.finish(Outcome::Done);
            answers.sinks.complete()?;
            done(&reports, mode, prints_id, &result)
        }
        Ok(Ended::Failed(failure)) => {
            display.finish(Outcome::Failed(&failure));
            print::keep(&summary::message(&failure));
            if let Some(id) = answers.missing_secret().filter(|id| failure.message.contains(id)) {
                print::hint(&format!(
                    "give the secret with `--secret id={id},src=PATH` or `--secret id={id},env=VAR`"
                ));
            }
            Err(Stop::Reported(Exit::Failed))
        }
        Err(stop) => {
            display.finish(Outcome::Stopped);
            Err(match (stop, answers.take_failure()) {
                // wharfd sees only a broken stream; this failure is the reason.
                (Stop::Failed(_), Some(failure)) => failure.into(),
                (stop, _) => stop,
            })
        }
    }
}

/// Opens a session, builds in it, and answers the build's requests.
async fn build(
    call: &mut Call,
    mut client: Client,
    namespace: &Named,
    spec: BuildSpec,
    tar: Option<Tar>,
    answers: &Arc<Answers>,
    display: &mut Display,
) -> Result<Ended, Stop> {
    let open = SessionOpen {
        namespace: namespace.to_wire(),
        directories: answers.directories(),
        secrets: true,
        credentials: true,
    };
    let opening = async { Ok(OpenSession::open(&mut client, open).await?) };
    let session = call.signals.guard(opening).await?;
    let start = BuildStart {
        namespace: namespace.to_wire(),
        session_id: session.id().to_owned(),
        spec: Some(spec),
        credentials: Vec::new(),
    };
    let (session, serving) = session.split();
    let mut serving = pin!(serving.serve(client.clone(), Arc::clone(answers)));
    let mut building = pin!(receive(&mut client, start, tar, display));
    tokio::select! {
        ended = &mut building => ended,
        lost = &mut serving => match time::timeout(REASON_TIMEOUT, &mut building).await {
            Ok(ended) => ended,
            Err(_) => Err(lost.into()),
        },
        exit = call.signals.next() => {
            // Ending the session cancels the build. Wait for the build to stop, unless a second signal
            // comes.
            drop(session);
            let stopped = async {
                tokio::select! {
                    _ = &mut building => {}
                    // Keep answering: running steps may need answers in order to end.
                    _ = async { (&mut serving).await; std::future::pending::<()>().await } => {}
                }
            };
            tokio::select! {
                _ = time::timeout(CANCEL_TIMEOUT, stopped) => {}
                _ = call.signals.next() => {}
            }
            Err(Stop::Cancelled(exit))
        }
    }
}

/// Starts the build, sends its tar, and shows its progress.
async fn receive(
    client: &mut Client,
    start: BuildStart,
    tar: Option<Tar>,
    display: &mut Display,
) -> Result<Ended, Stop> {
    let (requests, sent) = mpsc::channel(PIECES_MAX);
    let start = BuildRequest { request: Some(build_request::Request::Start(start)) };
    requests.send(Some(start)).await.map_err(|_| Failure::lost())?;
    let sent = until_whole(sent);
    let sending = async {
        match send_tar(tar, requests).await {
            // Everything is sent; wait for wharfd.
            Ok(()) => std::future::pending().await,
            Err(failure) => failure,
        }
    };
    let receiving = async {
        let responses = display.during(client.build(sent)).await?.into_inner();
        let read = |message: BuildResponse| {
            Some(match message.response? {
                Response::Progress(update) => Message::Progress(update),
                Response::Result(result) => Message::Result(Ended::Built(result)),
                Response::Failure(failure) => Message::Result(Ended::Failed(failure)),
            })
        };
        Ok(display.follow(responses, read).await?)
    };
    tokio::select! {
        ended = receiving => ended,
        failure = sending => Err(failure.into()),
    }
}

/// Yields the requests up to the `None` that marks their end. Without that mark the stream stays open until
/// the connection ends: otherwise half a tar could pass for a whole one.
fn until_whole(
    requests: mpsc::Receiver<Option<BuildRequest>>,
) -> impl Stream<Item = BuildRequest> + Send + 'static {
    ReceiverStream::new(requests)
        .chain(stream::pending())
        .take_while(|request| ready(request.is_some()))
        .filter_map(ready)
}

async fn send_tar(tar: Option<Tar>, requests: mpsc::Sender<Option<BuildRequest>>) -> Result<(), Failure> {
    if let Some(mut tar) = tar {
        loop {
            let mut piece = BytesMut::with_capacity(PIECE_BYTES);
            let read = tar
                .read_buf(&mut piece)
                .await
                .map_err(|error| Failure::new(Exit::Failed, format!("cannot read the context: {error}")))?;
            if read == 0 {
                break;
            }
            let request = BuildRequest { request: Some(build_request::Request::Tar(piece.freeze())) };
            if requests.send(Some(request)).await.is_err() {
                // wharfd has stopped reading; its answer says why.
                return Ok(());
            }
        }
    }
    let _ = requests.send(None).await;
    Ok(())
}

/// Refuses flags that do not go with the outputs, and says which have no effect.
fn conflicts(args: &BuildArgs, plan: &Plan) -> Result<(), Failure> {
    if plan.has_image() {
        return Ok(());
    }
    if given(args.iidfile.as_deref()).is_some() {
        return Err(Failure::usage("`--iidfile` needs an image, but no output is an image")
            .hint("leave it out, or add `--output type=image`"));
    }
    if !args.tags.is_empty() {
        print::note("WARN: `--tag` has no effect: no output is an image");
    }
    Ok(())
}

/// The build in its wire form.
fn spec(args: &BuildArgs, plan: &Plan, env: &Env, docker: &DockerConfig) -> Result<BuildSpec, Failure> {
    let mut build_args: HashMap<String, String> = HashMap::new();
    for arg in &args.build_args {
        let value = match &arg.value {
            Some(value) => Some(value.clone()),
            None => env.named(&arg.key)?,
        };
        match value {
            Some(value) => build_args.insert(arg.key.clone(), value),
            None => build_args.remove(&arg.key),
        };
    }
    build_args.extend(docker.proxies_beside(&build_args));
    // As buildx does (docs/build-repro.md in BuildKit); a flag takes precedence.
    if !args.build_args.iter().any(|arg| arg.key == SOURCE_DATE_EPOCH.name)
        && let Some(epoch) = env.get(SOURCE_DATE_EPOCH)?
    {
        build_args.insert(SOURCE_DATE_EPOCH.name.to_owned(), epoch);
    }
    let mut ulimits: Vec<crate::wire::v1::Ulimit> = Vec::new();
    for limit in &args.ulimits {
        ulimits.retain(|other| other.name != limit.name);
        ulimits.push(limit.clone());
    }
    let mut platforms = platforms(&args.platforms, env)?;
    Ok(BuildSpec {
        tags: plan.names().iter().map(ToString::to_string).collect(),
        dockerfile: String::new(),
        target: args.target.clone().unwrap_or_default(),
        build_args,
        labels: args.labels.iter().map(|label| (label.key.clone(), label.value.clone())).collect(),
        no_cache: args.no_cache,
        pull: args.pull,
        push: plan.push,
        add_hosts: args.add_hosts.iter().map(|host| host.0.clone()).collect(),
        network: args.network.clone().unwrap_or_default(),
        shm_size: args.shm_size.unwrap_or_default(),
        ulimits,
        platform: platforms.next().unwrap_or_default(),
        more_platforms: platforms.collect(),
        outputs: plan.wire.clone(),
    })
}

/// Turns warnings off for a large Dockerfile, unless the Dockerfile or the caller selects some. Each warning
/// carries the whole Dockerfile, and BuildKit sends all warnings in one message: if the message is too large
/// to be read, the rest of the log is lost.
fn leave_checks_out(dockerfile: &[u8], build_args: &mut HashMap<String, String>) {
    let says_which = || {
        let text = String::from_utf8_lossy(dockerfile);
        let directives = text.lines().map_while(|line| line.trim_start().strip_prefix('#'));
        let mut keys = directives.filter_map(|line| line.split_once('=')).map(|(key, _)| key.trim());
        keys.any(|key| key.eq_ignore_ascii_case("check"))
    };
    if dockerfile.len() <= CHECKED_BYTES_MAX || build_args.contains_key(CHECK) || says_which() {
        return;
    }
    build_args.insert(CHECK.to_owned(), "skip=all".to_owned());
    print::note(format_args!(
        "the Dockerfile has {} kB: warnings about it are left out, and `--build-arg {CHECK}=skip=none` brings \
         them back",
        dockerfile.len() / 1000,
    ));
}

/// The platforms to build for; empty ones mean the node's own.
fn platforms(given: &[Platform], env: &Env) -> Result<impl Iterator<Item = String>, Failure> {
    let (from, asked) = match given {
        [] => (DOCKER_DEFAULT_PLATFORM.name, platform::of_environment(env)?),
        given => ("--platform", given.to_vec()),
    };
    if asked.iter().any(|platform| Some(platform) != asked.first()) {
        return Err(Failure::usage(format!("`{from}` names several platforms, but a build has only one"))
            .hint("build for each on a node of that platform"));
    }
    Ok(asked.into_iter().map(|platform| match platform {
        Platform::Local => String::new(),
        Platform::Named(named) => named.to_string(),
    }))
}

/// Reports the image, to files and to the user.
fn done(reports: &Reports, mode: Mode, prints_id: bool, result: &BuildResult) -> Result<(), Stop> {
    if let Some(target) = &reports.metadata {
        // The push knows the digest at the registry even if the engine has none.
        let pushed = result.pushed.first().map(|pushed| (pushed.reference.as_str(), pushed.digest.as_str()));
        let digest =
            if result.digest.is_empty() { pushed.map_or("", |(_, digest)| digest) } else { &result.digest };
        Metadata {
            id: &result.image_id,
            config_digest: &result.config_digest,
            descriptor: &result.descriptor,
            digest,
            names: &result.references,
            pushed,
        }
        .write(target)?;
    }
    // Written last, so that a program that waits for the id also finds the other files.
    if let Some(target) = &reports.id {
        target.write(result.image_id.as_bytes())?;
    }
    if mode == Mode::Quiet {
        return if prints_id { print::line(printable(&result.image_id)) } else { Ok(()) };
    }
    for pushed in &result.pushed {
        print::note(format_args!("pushed {}@{}", pushed.reference, pushed.digest));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
