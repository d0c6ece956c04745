//! The form in which a scraper wants the metrics.

use crate::metrics::Format;

/// The form that the values of `Accept` prefer, as Prometheus' own library chooses it (`expfmt`): of those that there
/// are, the one with the highest `q`, and among equals the first. Prometheus' text, if none of them is named.
pub(super) fn format<'a>(accept: impl IntoIterator<Item = &'a str>) -> Format {
    let clauses = accept.into_iter().flat_map(|value| value.split(',')).filter_map(clause);
    let best = clauses.filter(|(_, q)| *q > 0.0).fold(None, |best: Option<(Format, f32)>, clause| {
        best.filter(|(_, q)| *q >= clause.1).or(Some(clause))
    });
    best.map_or(Format::Text, |(format, _)| format)
}

/// The form of one clause, and its `q`.
fn clause(text: &str) -> Option<(Format, f32)> {
    let mut parts = text.split(';').map(str::trim);
    let kind = parts.next()?.to_ascii_lowercase();
    let (mut version, mut q) = ("", 1.0);
    for part in parts {
        match part.split_once('=') {
            Some((key, value)) if key.trim().eq_ignore_ascii_case("version") => {
                version = value.trim().trim_matches('"');
            }
            Some((key, value)) if key.trim().eq_ignore_ascii_case("q") => q = value.trim().parse().ok()?,
            _ => {}
        }
    }
    let format = match (kind.as_str(), version) {
        ("application/openmetrics-text", "" | "0.0.1" | "1.0.0") => Format::OpenMetrics,
        ("text/plain", "" | "0.0.4") | ("text/*" | "*/*", _) => Format::Text,
        _ => return None,
    };
    Some((format, q))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preferred_form_is_chosen() {
        // Prometheus 3 asks like this.
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                          application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,\
                          text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let open = Format::OpenMetrics;
        for (accept, expected) in [
            (&[prometheus][..], open),
            (&["*/*"], Format::Text),
            (&[], Format::Text),
            (&[""], Format::Text),
            (&["application/openmetrics-text"], open),
            (&["text/plain;version=0.0.4", "application/openmetrics-text"], Format::Text),
            (&["text/plain;q=0.1", "application/openmetrics-text;q=0.2"], open),
            (&["application/openmetrics-text;q=0"], Format::Text),
            (&["application/openmetrics-text;q=x, text/plain"], Format::Text),
            (&["application/openmetrics-text;version=2.0.0"], Format::Text),
            (&["application/json"], Format::Text),
            (&[";;=,q=1,=;q==", "Application/OpenMetrics-Text ; Version=\"1.0.0\""], open),
            (&["application/openmetrics-text;q=nan,application/openmetrics-text;q=inf"], open),
        ] {
            assert_eq!(format(accept.iter().copied()), expected, "{accept:?}");
        }
    }
}
