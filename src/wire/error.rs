//! The encoding of a failed call's reason and hint: google.rpc.ErrorInfo, as documented in error.proto.

use super::v1::ErrorReason;

/// ErrorInfo's domain.
pub const DOMAIN: &str = "wharf";
/// The key of the hint in ErrorInfo's metadata.
pub const HINT: &str = "hint";
/// The key for the registry that the caller can log in to.
pub const LOGIN: &str = "login";
const PREFIX: &str = "ERROR_REASON_";

/// ErrorInfo's reason: `IMAGE_NOT_FOUND`.
pub fn name_of(reason: ErrorReason) -> &'static str {
    let name = reason.as_str_name();
    name.strip_prefix(PREFIX).unwrap_or(name)
}

/// The reason with this name; `None` for a reason of a newer wharfd.
pub fn reason_of(name: &str) -> Option<ErrorReason> {
    ErrorReason::from_str_name(&format!("{PREFIX}{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_reads_back_from_its_name() {
        assert_eq!(name_of(ErrorReason::ImageNotFound), "IMAGE_NOT_FOUND");
        assert_eq!(reason_of("IMAGE_NOT_FOUND"), Some(ErrorReason::ImageNotFound));
        assert_eq!(reason_of("NOT_TODAY"), None);
    }
}
