//! `PolicyService`: explains what jobs may do.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{accept, look, named, spec};
use crate::{
    build::{add, gate},
    fault::{Fault, Reason},
    front::Front,
    names::{Reference, printable, printable_url},
    policy::{Because, Explained},
    wire::v1::{
        CheckPolicyRequest, CheckPolicyResponse, PolicyAnswer, PolicyKey, PolicyQuestion,
        policy_question::Question, policy_service_server::PolicyService,
    },
};

/// More than a person asks at once.
pub(super) const QUESTIONS_MAX: usize = 64;
/// Longer than a name and most URLs. Answers repeat it, escaped.
pub(super) const QUESTION_BYTES_MAX: usize = 4 << 10;

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
        look(&self.front, &call, async {
            let CheckPolicyRequest { namespace, caller: other, questions } = request.into_inner();
            if questions.len() > QUESTIONS_MAX {
                return Err(Fault::invalid("questions", format!("more than {QUESTIONS_MAX} questions")));
            }
            let (explained, caller) = if other.is_empty() {
                let permit = self.front.authorize(&call, named(namespace)?).await?;
                (permit.explain(), call.caller().to_string())
            } else {
                (self.front.explain(&call, &other, named(namespace)?)?, other)
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

/// The answer to the question at `index`; an error if it is not a question.
fn answered(explained: &Explained, index: usize, question: PolicyQuestion) -> Result<PolicyAnswer, Fault> {
    let field = format!("questions[{index}]");
    let reference = |text: &str| {
        Reference::parse(text)
            .map_err(|error| Fault::invalid(field.clone(), format!("`{}`: {error}", printable(text))))
    };
    let Some(question) = question.question else {
        return Err(Fault::invalid(field, "an empty question"));
    };
    let (key, asked) = parts(&question);
    if asked.len() > QUESTION_BYTES_MAX {
        return Err(Fault::invalid(
            field,
            format!("a question of more than {} KiB", QUESTION_BYTES_MAX >> 10),
        ));
    }
    let because = match &question {
        Question::Pull(image) => explained.pull(&reference(image)?),
        Question::Push(image) => explained.push(field.clone(), reference(image)?),
        Question::NodeImage(image) => explained.node_image(&reference(image)?),
        Question::Add(url) if add::is_git(url) => Err(gate::git_denied(url)),
        Question::Add(url) => {
            let host = add::host(url).ok_or_else(|| {
                let text = format!("`{}` is not a URL that `ADD` fetches", printable_url(url));
                Fault::invalid(field, text).hint("write it as `https://HOST/PATH`")
            })?;
            explained.add(url, &host)
        }
        Question::Network(network) => match spec::network(network) {
            Ok(network) => explained.network(network),
            Err(fault) if fault.reason() == Reason::InvalidInput => {
                Err(Fault::invalid(field, fault.text().to_owned()))
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
        // A build with this value would be refused as bad usage, too.
        Err(fault) if fault.reason() == Reason::InvalidInput => return Err(fault),
        Err(fault) => PolicyAnswer {
            allowed: false,
            key: if fault.reason() == Reason::PolicyDenied { key } else { "" }.to_owned(),
            pattern: String::new(),
            message: fault.text().to_owned(),
            hint: fault.hint_text().unwrap_or_default().to_owned(),
        },
    })
}

/// The key that decides, and the thing.
fn parts(question: &Question) -> (&'static str, &str) {
    match question {
        Question::Pull(image) => ("pull", image),
        Question::Push(image) => ("push", image),
        Question::NodeImage(image) => ("node_images", image),
        Question::Add(url) => ("add", url),
        Question::Network(network) => ("networks", network),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        names::{CallerId, Namespace, Pattern},
        policy::Rules,
    };

    #[test]
    fn what_is_refused_as_bad_usage_is_no_question() {
        let rules = Arc::new(Rules::built_in("test", Pattern::any()));
        let permit = rules.namespace(&CallerId::Uid(1), Namespace::new("a", "1").unwrap()).unwrap();
        let asked = |question| {
            let answer = answered(&permit.explain(), 1, PolicyQuestion { question: Some(question) });
            answer.map(|answer| answer.allowed).map_err(|fault| {
                assert_eq!((fault.reason(), fault.field()), (Reason::InvalidInput, Some("questions[1]")));
                fault.text().to_owned()
            })
        };
        let digest = format!("app@sha256:{}", "a".repeat(64));
        let long = |byte: char| format!("https://a/{}", byte.to_string().repeat(QUESTION_BYTES_MAX));
        for (question, why) in [
            (Question::Push(digest.replace('@', ":1@")), "has a digest"),
            (Question::Push("wharf.invalid/x".to_owned()), "wharfd's own"),
            (Question::Add("a.example".to_owned()), "is not a URL that `ADD` fetches"),
            (Question::Network("bridge".to_owned()), "is not a network"),
            (Question::Add(long('a')), "more than 4 KiB"),
            (Question::Pull(long('\u{1b}')), "more than 4 KiB"),
        ] {
            let said = asked(question.clone()).unwrap_err();
            assert!(said.contains(why), "{question:?}: {said}");
        }
        for (question, is_allowed) in [
            (Question::Pull(digest.clone()), true),
            (Question::Push(digest.clone()), true),
            (Question::NodeImage(digest), true),
            (Question::Pull("wharf.invalid/x".to_owned()), false),
            (Question::NodeImage("wharf.invalid/x".to_owned()), false),
            (Question::Add("https://a/x".to_owned()), true),
            (Question::Add("https://a/x%2Egit".to_owned()), false),
            (Question::Add("deploy@a:b".to_owned()), false),
        ] {
            assert_eq!(asked(question.clone()), Ok(is_allowed), "{question:?}");
        }
    }
}
