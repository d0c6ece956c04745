use futures_util::stream;

use super::*;

/// A message as Go sends it: each map entry with its key and value.
fn delimited(number: u8, parts: &[&[u8]]) -> Vec<u8> {
    let parts = parts.concat();
    let mut field = vec![number << 3 | 2, u8::try_from(parts.len()).unwrap()];
    assert!(parts.len() < 0x80);
    field.extend(parts);
    field
}

#[test]
fn an_answer_with_anything_unknown_in_it_is_none() {
    let answer = |hidden: [&[u8]; 5]| {
        let [of_metadata, of_definition, of_reference, of_map, of_result] = hidden;
        let empty = delimited(2, &[]);
        let description = delimited(2, &[&delimited(1, &[b"llb.customname"]), &empty]);
        let metadata = delimited(2, &[&delimited(1, &[b"b"]), &delimited(2, &[&description, of_metadata])]);
        let other = delimited(2, &[&delimited(1, &[b"a"]), &empty]);
        let definition = delimited(2, &[&metadata, &other, of_definition]);
        let reference = delimited(2, &[&delimited(1, &[b"r1"]), &definition, of_reference]);
        let refs = delimited(1, &[&delimited(1, &[b"linux/amd64"]), &reference]);
        Answer::read(delimited(3, &[&delimited(4, &[&refs, of_map]), of_result]).into()).unwrap()
    };
    let nothing: &[u8] = &[];
    assert!(answer([nothing; 5]).understood().is_some());
    for hidden in
        [&[0xf8_u8, 0x01, 0x00][..], &[0xf8, 0x01, 0x01], &[0xfa, 0x01, 0x00], &[0xfa, 0x01, 0x01, 0x01]]
    {
        for place in 0..5 {
            let mut all = [nothing; 5];
            all[place] = hidden;
            assert!(answer(all).understood().is_none(), "{hidden:?} at {place}");
        }
    }
}

#[test]
fn text_that_is_no_text_is_told_as_the_decoder_tells_it() {
    let bytes = delimited(3, &[&delimited(3, &[&delimited(1, &[&[0xff]])])]);
    let status = Answer::read(bytes.into()).unwrap_err();
    assert!(status.message().ends_with("data is not UTF-8 encoded"), "{status:?}");
}

/// The result of a call that gets these answers one after the other, and the number of attempts.
async fn asked(answers: impl IntoIterator<Item = Result<u32, &str>>) -> (Result<u32, String>, usize) {
    let mut answers = answers.into_iter();
    let mut calls = 0;
    let ended = once_known("ref", &AtomicBool::new(false), || {
        calls += 1;
        std::future::ready(answers.next().unwrap().map_err(Status::unknown))
    })
    .await;
    (ended.map_err(|status| status.message().to_owned()), calls)
}

#[tokio::test]
async fn a_build_that_is_not_known_yet_is_asked_about_again() {
    let unknown = "no such job ref";
    assert_eq!(asked([Err(unknown), Err(unknown), Ok(1)]).await, (Ok(1), 3));
    let never = std::iter::repeat(Err(unknown));
    assert_eq!(asked(never).await, (Err(unknown.to_owned()), ATTEMPTS));
    let printed = "no such job other";
    assert_eq!(asked([Err(printed), Ok(1)]).await, (Err(printed.to_owned()), 1));
}

/// Counts status.
#[derive(Default)]
struct Count(usize);

impl PassListener for Count {
    fn report(&mut self, _: StatusResponse) {
        self.0 += 1;
    }

    fn broke_off(&mut self, why: Status) {
        panic!("{why}");
    }

    fn runs(&mut self) {}
}

#[tokio::test]
async fn the_last_status_is_awaited_for_a_while() {
    let messages = || stream::iter((0..3).map(|_| Ok(StatusResponse::default())));
    let mut listener = Count::default();
    let within = Duration::from_millis(50);
    last_status(&mut listener, std::pin::pin!(messages()), within).await;
    assert_eq!(listener.0, 3);
    let pending = messages().chain(stream::pending());
    last_status(&mut listener, std::pin::pin!(pending), within).await;
    assert_eq!(listener.0, 6);
}
