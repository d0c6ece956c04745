//! Percent-encoding (RFC 3986, 2.1).

/// `text` with each `%XX` decoded; `None` if a `%` begins nothing of this form, or if the result is not UTF-8.
pub fn percent_decoded(text: &str) -> Option<String> {
    String::from_utf8(percent_bytes(text)?).ok()
}

/// The same for a result of any bytes.
pub fn percent_bytes(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => digit(bytes.next()?)? * 16 + digit(bytes.next()?)?,
            other => other,
        });
    }
    Some(decoded)
}
