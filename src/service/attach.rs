//! A session's messages: the client's offer, and the streams to which it attaches.

use futures_util::{StreamExt as _, stream::BoxStream};
use tonic::{Code, Status, Streaming};

use crate::{
    build::{
        session::{FromClient, Offer, Offered, Opened, Subject},
        spec::PATH_BYTES_MAX,
    },
    buildkit::solve::Form,
    fault::Fault,
    names::printable,
    wire::v1::{self, attach_request, stream_opened},
};

/// A hash in hexadecimal.
pub(super) const STATE_BYTES_MAX: usize = 64;

/// Checks a client's offer.
pub(super) fn offer(open: v1::SessionOpen) -> Result<Offer, Fault> {
    let mut directories: Vec<Offered> = Vec::new();
    for (index, directory) in open.directories.into_iter().enumerate() {
        let field = format!("open.directories[{index}]");
        if !matches!(directory.name.as_str(), "context" | "dockerfile") {
            let text = format!("`{}`: a build reads `context` and `dockerfile`", printable(&directory.name));
            return Err(Fault::invalid(field, text));
        }
        if directories.iter().any(|other| other.name == directory.name) {
            return Err(Fault::invalid(field, format!("`{}` is offered twice", directory.name)));
        }
        if directory.path.len() > PATH_BYTES_MAX {
            let text = format!("its path has more than {PATH_BYTES_MAX} bytes");
            return Err(Fault::invalid(field, text));
        }
        if directory.state.len() > STATE_BYTES_MAX {
            let text = format!("its state has more than {STATE_BYTES_MAX} bytes");
            return Err(Fault::invalid(field, text));
        }
        let v1::LocalDirectory { name, path, state } = directory;
        directories.push(Offered { name, path, state });
    }
    Ok(Offer { directories, secrets: open.secrets, credentials: open.credentials })
}

/// The announcement of a stream.
pub(super) fn opened(opened: Opened) -> v1::StreamOpened {
    let subject = match opened.subject {
        Subject::Sync(request) => stream_opened::Subject::FileSync(v1::FileSync {
            directory: request.name,
            include_patterns: request.include_patterns,
            exclude_patterns: request.exclude_patterns,
            follow_paths: request.follow_paths,
        }),
        Subject::Secret(id) => stream_opened::Subject::Secret(v1::SecretQuery { id }),
        Subject::Credentials(host) => stream_opened::Subject::Credentials(v1::CredentialsQuery { host }),
        Subject::Output(output, form) => {
            let form = match form {
                Form::Tree => v1::OutputForm::Tree,
                Form::File => v1::OutputForm::File,
            };
            let output = i32::try_from(output).unwrap_or(i32::MAX);
            stream_opened::Subject::Output(v1::OutputStream { output, form: form.into() })
        }
    };
    v1::StreamOpened { stream_id: opened.id, subject: Some(subject) }
}

/// The messages of an attached client.
pub(super) fn incoming(
    requests: Streaming<v1::AttachRequest>,
) -> BoxStream<'static, Result<FromClient, Status>> {
    let message = |request: v1::AttachRequest| match request.request {
        Some(attach_request::Request::Message(message)) => FromClient::Message(message),
        Some(attach_request::Request::Error(error)) => {
            FromClient::Error(Code::from(error.code), error.message)
        }
        Some(attach_request::Request::StreamId(_)) | None => FromClient::Empty,
    };
    requests.map(move |request| request.map(message)).boxed()
}
