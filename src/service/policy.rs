//! `PolicyService`: explains what jobs may do.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{accept, answer, named, spec};
use crate::{
    build::{gate, spec::Network},
    config::StepNetwork,
    fault::{Fault, Reason},
    front::Front,
    names::{CallerId, Reference, printable, printable_url},
    policy::{Because, Explained},
    wire::v1::{
        CheckPolicyRequest, CheckPolicyResponse, PolicyAnswer, PolicyKey, PolicyQuestion,
        policy_question::Question, policy_service_server::PolicyService,
    },
};

/// More than a person asks at once.
const QUESTIONS_MAX: usize = 64;

/// `PolicyService`.
#[derive(Debug)]
pub(super) struct Policy {
    front: Arc<Front>,
}

impl Policy {
    pub(super) fn new(front: Arc<Front>) -> Self {
        Self { front }
    }
}

#[tonic::async_trait]
impl PolicyService for Policy {
    async fn check_policy(
        &self,
        request: Request<CheckPolicyRequest>,
    ) -> Result<Response<CheckPolicyResponse>, Status> {
        let call = accept(&self.front, &request, "PolicyService/CheckPolicy")?;
        answer(&call, async {
            let CheckPolicyRequest { namespace, caller: other, questions } = request.into_inner();
            if questions.len() > QUESTIONS_MAX {
                return Err(Fault::invalid("questions", format!("more than {QUESTIONS_MAX} questions")));
            }
            let (explained, caller) = if other.is_empty() {
                let permit = self.front.authorize(&call, named(namespace)?).await?;
                (permit.explain(), call.caller().to_string())
            } else {
                if !matches!(call.caller().id(), CallerId::Operator(_)) {
                    let text = "only the node's operator may ask about another caller";
                    return Err(Fault::new(Reason::NamespaceDenied, text));
                }
                (self.front.explain(&other, named(namespace)?)?, other)
            };
            let keys = explained.entry().keys().into_iter();
            let questions = questions.into_iter().enumerate();
            Ok(CheckPolicyResponse {
                caller,
                rule: explained.rules().name().to_owned(),
                namespace: Some(explained.namespace().into()),
                policy: explained.entry().name(),
                keys: keys.map(|(key, values)| PolicyKey { key: key.to_owned(), values }).collect(),
                answers: questions
                    .map(|(index, question)| answered(&explained, index, question))
                    .collect::<Result<_, _>>()?,
            })
        })
        .await
    }
}

/// The answer to the question at `index`; an error if it is no question.
fn answered(explained: &Explained, index: usize, question: PolicyQuestion) -> Result<PolicyAnswer, Fault> {
    let field = format!("questions[{index}]");
    let reference = |text: &str| {
        Reference::parse(text)
            .map_err(|error| Fault::invalid(field.clone(), format!("`{}`: {error}", printable(text))))
    };
    let Some(question) = question.question else {
        return Err(Fault::invalid(field, "an empty question"));
    };
    let because = match &question {
        Question::Pull(image) => explained.pull(&reference(image)?),
        Question::Push(image) => explained.push(&reference(image)?.tagged()),
        Question::NodeImage(image) => explained.node_image(&reference(image)?),
        Question::Add(url) if is_git(url) => Err(gate::git_denied(url)),
        Question::Add(url) => explained.add(url, &host(&field, url)?),
        Question::Network(network) => match spec::network(network) {
            Ok(Network::Default) => explained.network(StepNetwork::Default),
            Ok(Network::None) => explained.network(StepNetwork::None),
            Err(fault) if fault.reason() == Reason::InvalidInput => {
                return Err(Fault::invalid(field, fault.text().to_owned()));
            }
            Err(fault) => Err(fault),
        },
    };
    Ok(match because {
        Ok(Because { key, pattern, unless }) => PolicyAnswer {
            allowed: true,
            key: key.to_owned(),
            pattern,
            message: unless.unwrap_or_default().to_owned(),
            hint: String::new(),
        },
        Err(fault) => PolicyAnswer {
            allowed: false,
            key: if fault.reason() == Reason::PolicyDenied { key(&question) } else { "" }.to_owned(),
            pattern: String::new(),
            message: fault.text().to_owned(),
            hint: fault.hint_text().unwrap_or_default().to_owned(),
        },
    })
}

/// The key that decides.
fn key(question: &Question) -> &'static str {
    match question {
        Question::Pull(_) => "pull",
        Question::Push(_) => "push",
        Question::NodeImage(_) => "node_images",
        Question::Add(_) => "add",
        Question::Network(_) => "networks",
    }
}

/// The host of a URL that `ADD` would fetch.
fn host(field: &str, url: &str) -> Result<String, Fault> {
    let uri = url
        .parse::<http::Uri>()
        .ok()
        .filter(|_| ["http://", "https://"].iter().any(|scheme| url.starts_with(scheme)));
    let host = uri.as_ref().and_then(|uri| uri.host());
    let host = host.ok_or_else(|| {
        let text = format!("`{}` is not a URL that `ADD` fetches", printable_url(url));
        Fault::invalid(field.to_owned(), text).hint("write it as `https://HOST/PATH`")
    })?;
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    Ok(bare.unwrap_or(host).to_owned())
}

/// Whether BuildKit takes it for a Git repository (`gitutil.ParseGitRef`).
fn is_git(url: &str) -> bool {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    ["git://", "ssh://", "git@"].iter().any(|prefix| url.starts_with(prefix)) || path.ends_with(".git")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_buildkit_takes_for_a_repository_is_git() {
        for url in ["git://a/b", "ssh://a/b", "git@a:b", "https://a/b.git", "http://a/b.git#main:dir"] {
            assert!(is_git(url), "{url}");
        }
        for url in ["https://a/b.git/archive.tar", "https://a/?x=b.git", "https://git@a/b"] {
            assert!(!is_git(url), "{url}");
        }
    }

    #[test]
    fn a_url_has_a_host() {
        assert_eq!(host("f", "https://[::1]:8080/x").unwrap(), "::1");
        assert_eq!(host("f", "http://user:p@files.example/x").unwrap(), "files.example");
        for wrong in ["", "files.example", "ftp://a/b", "https://", "/file", "https:///x"] {
            assert_eq!(host("f", wrong).unwrap_err().field(), Some("f"), "{wrong}");
        }
    }
}
