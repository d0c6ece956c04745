//! `wharf policy`.

use serde_json::json;

use super::Call;
use crate::{
    client::{
        args::{PolicyCheckArgs, TableFormat},
        exit::{Exit, Failure, Stop},
        namespace::listed_as,
        print,
    },
    names::{printable, printable_json, printable_url},
    wire::v1::{
        CheckPolicyRequest, CheckPolicyResponse, PolicyAnswer, PolicyQuestion, policy_question::Question,
        policy_service_client::PolicyServiceClient,
    },
};

const KEYS: [&str; 3] = ["KEY", "ALLOWED", "POLICY"];
const ANSWERS: [&str; 5] = ["KEY", "ASKED", "ALLOWED", "PATTERN", "POLICY"];

pub(super) async fn check(mut call: Call, args: PolicyCheckArgs) -> Result<(), Stop> {
    // The name of a proven job is a namespace's already.
    let is_job = args.caller.as_ref().is_some_and(|caller| caller.starts_with("job "));
    let namespace = match call.global.namespace {
        None if is_job => None,
        _ => call.namespace()?.to_wire(),
    };
    let questions = questions(&args);
    let asked = questions.iter().cloned().map(|question| PolicyQuestion { question: Some(question) });
    let request =
        CheckPolicyRequest { namespace, caller: args.caller.unwrap_or_default(), questions: asked.collect() };
    let mut client = PolicyServiceClient::new(call.connect().await?);
    let checking = async { Ok(client.check_policy(request).await?.into_inner()) };
    let checked = call.signals.guard(checking).await?;
    match (args.format, questions.is_empty()) {
        (TableFormat::Table, true) => print::text(&allowed(&checked))?,
        (TableFormat::Table, false) => print::text(&answers(&questions, &checked))?,
        (TableFormat::Json, true) => print_keys(&checked)?,
        (TableFormat::Json, false) => print_answers(&questions, &checked)?,
    }
    let refused: Vec<_> = checked.answers.iter().filter(|answer| !answer.allowed).collect();
    refused.iter().for_each(|answer| print::failure(&failure(answer)));
    if refused.is_empty() { Ok(()) } else { Err(Stop::Reported(Exit::Denied)) }
}

fn questions(args: &PolicyCheckArgs) -> Vec<Question> {
    let pull = args.pull.iter().map(|image| Question::Pull(image.to_string()));
    let push = args.push.iter().map(|image| Question::Push(image.to_string()));
    let node = args.node_image.iter().map(|image| Question::NodeImage(image.to_string()));
    let add = args.add.iter().cloned().map(Question::Add);
    let network = args.network.iter().cloned().map(Question::Network);
    pull.chain(push).chain(node).chain(add).chain(network).collect()
}

fn failure(answer: &PolicyAnswer) -> Failure {
    let failure = Failure::new(Exit::Denied, answer.message.clone());
    if answer.hint.is_empty() { failure } else { failure.hint(answer.hint.clone()) }
}

/// The caller in question, and the rights that the policy gives.
fn allowed(checked: &CheckPolicyResponse) -> String {
    let policy = printable(&checked.policy);
    let rows = checked.keys.iter().map(|key| {
        let values = if key.values.is_empty() { "nothing".to_owned() } else { key.values.join(", ") };
        [printable(&key.key), printable(&values), policy.clone()]
    });
    let namespace = checked.namespace.as_ref().map(listed_as).unwrap_or_default();
    format!(
        "Caller: {}\nRule: {}\nNamespace: {}\n\n{}",
        printable(&checked.caller),
        printable(&checked.rule),
        namespace,
        print::table(KEYS, rows)
    )
}

fn answers(questions: &[Question], checked: &CheckPolicyResponse) -> String {
    let rows = questions.iter().zip(&checked.answers).map(|(question, answer)| {
        let (key, asked) = parts(question);
        let allowed = match (answer.allowed, answer.message.as_str()) {
            (false, _) => "no".to_owned(),
            (true, "") => "yes".to_owned(),
            (true, unless) => format!("yes, {unless}"),
        };
        [
            key.to_owned(),
            printable(&asked),
            printable(&allowed),
            printable(&answer.pattern),
            printable(&checked.policy),
        ]
    });
    print::table(ANSWERS, rows)
}

/// The key that a question is about, and the thing.
fn parts(question: &Question) -> (&'static str, String) {
    match question {
        Question::Pull(image) => ("pull", image.clone()),
        Question::Push(image) => ("push", image.clone()),
        Question::NodeImage(image) => ("node_images", image.clone()),
        Question::Add(url) => ("add", printable_url(url)),
        Question::Network(network) => ("networks", network.clone()),
    }
}

fn print_keys(checked: &CheckPolicyResponse) -> Result<(), Stop> {
    checked.keys.iter().try_for_each(|key| {
        let row = json!({
            "Caller": checked.caller,
            "Rule": checked.rule,
            "Namespace": checked.namespace.as_ref().map(listed_as),
            "Policy": checked.policy,
            "Key": key.key,
            "Allowed": key.values,
        });
        print::line(printable_json(&row.to_string()))
    })
}

fn print_answers(questions: &[Question], checked: &CheckPolicyResponse) -> Result<(), Stop> {
    questions.iter().zip(&checked.answers).try_for_each(|(question, answer)| {
        let (key, asked) = parts(question);
        let row = json!({
            "Caller": checked.caller,
            "Rule": checked.rule,
            "Namespace": checked.namespace.as_ref().map(listed_as),
            "Policy": checked.policy,
            "Key": key,
            "Asked": asked,
            "Allowed": answer.allowed,
            "Pattern": answer.pattern,
            "Message": answer.message,
            "Hint": answer.hint,
        });
        print::line(printable_json(&row.to_string()))
    })
}
