//! Random ids that cannot be guessed.

/// The error of [`random_id`].
#[derive(Debug, thiserror::Error)]
#[error("the kernel gives no random bytes")]
pub struct NoRandomness(#[source] getrandom::Error);

/// A fresh id that cannot be guessed: 128 bits in hexadecimal.
pub fn random_id() -> Result<String, NoRandomness> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(NoRandomness)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_of_one_length_and_differ() {
        let (one, other) = (random_id().unwrap(), random_id().unwrap());
        assert_eq!((one.len(), other.len()), (32, 32));
        assert_ne!(one, other);
    }
}
