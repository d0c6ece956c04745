//! `wharf images`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::Call;
use crate::{
    client::{
        args::{ImagesArgs, TableFormat},
        exit::Stop,
        print, units,
    },
    names::{Reference, printable, printable_json},
    wire::v1::{Image, ListImagesRequest},
};

const NONE: &str = "<none>";
const COLUMNS: [&str; 5] = ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"];

struct Row {
    repository: String,
    tag: String,
    id: String,
    created: i64,
    size: i64,
}

pub(super) async fn run(mut call: Call, args: ImagesArgs) -> Result<(), Stop> {
    let request = ListImagesRequest {
        namespace: call.namespace()?.to_wire(),
        reference: args.reference.as_ref().map(ToString::to_string).unwrap_or_default(),
    };
    let mut images = call.images().await?;
    let listed =
        call.signals.guard(async { Ok(images.list_images(request).await?.into_inner().images) }).await?;
    if args.quiet {
        for image in &listed {
            print::line(if args.no_trunc { printable(&image.id) } else { short(&image.id) })?;
        }
        return Ok(());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let rows: Vec<Row> = listed.iter().flat_map(|image| rows(image, args.no_trunc)).collect();
    match args.format {
        TableFormat::Table => print::text(&table(&rows, now)),
        TableFormat::Json => {
            for row in rows {
                let row = json!({
                    "CreatedAt": units::rfc3339(row.created),
                    "CreatedSince": units::since(row.created, now),
                    "ID": row.id,
                    "Repository": row.repository,
                    "Size": units::human_size(row.size),
                    "Tag": row.tag,
                });
                print::line(printable_json(&row.to_string()))?;
            }
            Ok(())
        }
    }
}

/// A row for each tag, and one for each repository of which only digests are known; one row for an image without
/// references.
fn rows(image: &Image, no_trunc: bool) -> Vec<Row> {
    let row = |repository: String, tag: &str| Row {
        repository,
        tag: tag.to_owned(),
        id: if no_trunc { printable(&image.id) } else { short(&image.id) },
        created: image.created.as_ref().map_or(0, |created| created.seconds),
        size: image.size,
    };
    if image.references.is_empty() {
        return vec![row(NONE.to_owned(), NONE)];
    }
    let named = |reference: &String| match Reference::parse(reference) {
        Ok(reference) => {
            let tag = reference.tag().unwrap_or(NONE).to_owned();
            let repository = Reference::parse(&reference.repository());
            let repository =
                repository.map_or_else(|_| reference.repository(), |repository| repository.familiar());
            (reference.digest().is_some(), row(repository, &tag))
        }
        Err(_) => (false, row(printable(reference), NONE)),
    };
    let (pinned, tagged): (Vec<_>, Vec<_>) =
        image.references.iter().map(named).partition(|(is_pinned, _)| *is_pinned);
    let mut rows: Vec<Row> = Vec::new();
    for (is_pinned, row) in tagged.into_iter().chain(pinned) {
        if !is_pinned || rows.iter().all(|other| other.repository != row.repository) {
            rows.push(row);
        }
    }
    rows
}

fn table(rows: &[Row], now: Duration) -> String {
    print::table(
        COLUMNS,
        rows.iter().map(|row| {
            let created = units::since(row.created, now);
            [row.repository.clone(), row.tag.clone(), row.id.clone(), created, units::human_size(row.size)]
        }),
    )
}

/// Docker's short form of an id: 12 digits.
fn short(id: &str) -> String {
    printable(&id.strip_prefix("sha256:").unwrap_or(id).chars().take(12).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_dockers() {
        let image = |references: &[&str], size| Image {
            id: format!("sha256:{}", "0123456789abcdef".repeat(4)),
            references: references.iter().map(|&reference| reference.to_owned()).collect(),
            created: Some(prost_types::Timestamp { seconds: 1_000_000, nanos: 0 }),
            size,
        };
        let digest = "0".repeat(64);
        let pinned =
            ["docker.io/library/app", "reg.example/pinned"].map(|name| format!("{name}@sha256:{digest}"));
        let names = ["docker.io/library/app:1", &pinned[0], "127.0.0.1:5000/acme/app:latest", &pinned[1]];
        let images = [image(&names, 77_800_000), image(&[], 12)];
        let rows: Vec<Row> = images.iter().flat_map(|image| rows(image, false)).collect();
        assert_eq!(
            table(&rows, Duration::from_secs(1_000_000 + 600)),
            "\
REPOSITORY                TAG      IMAGE ID       CREATED          SIZE
app                       1        0123456789ab   10 minutes ago   77.8MB
127.0.0.1:5000/acme/app   latest   0123456789ab   10 minutes ago   77.8MB
reg.example/pinned        <none>   0123456789ab   10 minutes ago   77.8MB
<none>                    <none>   0123456789ab   10 minutes ago   12B
"
        );
        assert_eq!(table(&[], Duration::ZERO), "REPOSITORY   TAG   IMAGE ID   CREATED   SIZE\n");
    }
}
