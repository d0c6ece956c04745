//! The flags of wharfd and their variables `WHARFD_*`.

use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf, time::Duration};

use clap::Parser;

use super::{SocketMode, env, parse_seconds};
use crate::{
    audit::Destination,
    names::ListenAddress,
    telemetry::{Filter, LogFormat},
};

/// The only holder of a container engine's socket: builds and pushes images for jobs, each in a
/// namespace of its own.
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "wharfd", version, after_help = after_help(), max_term_width = 100)]
pub struct Flags {
    /// Address to serve on, unix:///PATH, or tcp://IP:PORT with TLS; repeatable
    /// [default: unix:///run/wharf/wharf.sock]
    #[arg(long, env = env::WHARFD_LISTEN, value_name = "ADDR", value_delimiter = ',')]
    pub listen: Vec<ListenAddress>,

    /// Serve on tcp:// without TLS: anyone on the network path can read and change everything, the tokens
    /// included
    #[arg(long)]
    pub dangerous_plain_tcp: bool,

    /// Mode of the sockets, octal [default: 0660]
    #[arg(long, env = env::WHARFD_LISTEN_MODE, value_name = "MODE")]
    pub listen_mode: Option<SocketMode>,

    /// Group of the sockets, by name or number [default: wharfd's own]
    #[arg(long, env = env::WHARFD_LISTEN_GROUP, value_name = "GROUP")]
    pub listen_group: Option<String>,

    /// Address for the metrics, IP:PORT: GET /metrics, for anyone who reaches it [default: none]
    #[arg(long, env = env::WHARFD_METRICS_LISTEN, value_name = "IP:PORT")]
    pub metrics_listen: Option<SocketAddr>,

    /// Socket of the default engine, unix:///PATH [default: DOCKER_HOST, else unix:///var/run/docker.sock]
    #[arg(long, env = env::WHARFD_ENGINE, value_name = "ADDR")]
    pub engine: Option<String>,

    /// Directory for the state that must survive a restart [default: /var/lib/wharf]
    #[arg(long, env = env::WHARFD_STATE_DIR, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// Directory to put the client `wharf` into, for agents that mount it [default: none]
    #[arg(long, env = env::WHARFD_CLIENT_DIR, value_name = "DIR")]
    pub client_dir: Option<PathBuf>,

    /// BuildKit's Dockerfile frontend, which runs in a container [default: `wharf-frontend` beside wharfd]
    #[arg(long, env = env::WHARFD_FRONTEND_FILE, value_name = "FILE")]
    pub frontend_file: Option<PathBuf>,

    /// Configuration file (TOML); flags override it
    #[arg(long, env = env::WHARFD_CONFIG, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// How long running builds may continue after SIGTERM: 25, 25s, 5m [default: 25s]
    #[arg(long, env = env::WHARFD_GRACE_PERIOD, value_name = "TIME", value_parser = parse_seconds)]
    pub grace_period: Option<Duration>,

    /// How long to keep a namespace that nobody uses: 3600, 90m, 24h [default: 24h]
    #[arg(long, env = env::WHARFD_NAMESPACE_TTL, value_name = "TIME", value_parser = parse_seconds)]
    pub namespace_ttl: Option<Duration>,

    /// How many builds an engine runs at once; others wait for their turn [default: twice its processors, 8 to 150]
    #[arg(long, env = env::WHARFD_MAX_BUILDS, value_name = "NUMBER")]
    pub max_builds: Option<NonZeroUsize>,

    /// How many of these may be of one job [default: half of them]
    #[arg(long, env = env::WHARFD_MAX_BUILDS_PER_JOB, value_name = "NUMBER")]
    pub max_builds_per_job: Option<NonZeroUsize>,

    /// Format of the log [default: text]
    #[arg(long, env = env::WHARFD_LOG_FORMAT, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,

    /// The log's level: error, warn, info, debug, trace, or directives such as info,wharf=debug
    /// [default: info]
    #[arg(long, env = env::WHARFD_LOG_LEVEL, value_name = "LEVEL")]
    pub log_level: Option<Filter>,

    /// Where to write the audit log, as lines of JSON: a file's absolute path, or stderr [default: none]
    #[arg(long, env = env::WHARFD_AUDIT_LOG, value_name = "FILE")]
    pub audit_log: Option<Destination>,
}

fn after_help() -> String {
    format!("{}\n{ENDS}", env::help())
}

const ENDS: &str = "\
Commands:
  wharfd firewall  set up the firewall of a pod in which engines run, then exit:
                   `wharfd firewall --help`

Exit status:
  0  stopped by SIGTERM or SIGINT, even if builds had to be cancelled
  1  could not start or continue: the engine, the state directory, a socket
  2  bad flags or configuration
  130, 143  a second SIGINT, SIGTERM ended it at once

Signals:
  SIGTERM, SIGINT  stop: refuse new and waiting builds, let running ones finish within the
                   grace period, then cancel the rest; a second signal stops at once
  SIGHUP           reload `[[serve]]`, `[issuers]` and `[[policy]]` from the configuration file";
