//! Signatures of tokens, by ring, which TLS uses too.

use ::ring::signature::{self as ring, RsaPublicKeyComponents, UnparsedPublicKey};
use jsonwebtoken::{
    Algorithm, DecodingKey, DecodingKeyKind, EncodingKey,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::{Error, ErrorKind},
    signature::{self, Verifier},
};

/// wharfd checks tokens and signs none.
static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: no_signer,
    verifier_factory: verifier,
    // Only for keys that are made or printed.
    key_utils: KeyUtils::new_unimplemented(),
};

/// Lets the token library check signatures; once is enough.
pub(super) fn install() {
    let _ = PROVIDER.install_default();
}

fn no_signer(_: &Algorithm, _: &EncodingKey) -> Result<Box<dyn JwtSigner>, Error> {
    Err(ErrorKind::InvalidAlgorithm.into())
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    // A key of another family never checks a signature: a public key is not a shared secret.
    if !key.family().algorithms().contains(algorithm) {
        return Err(ErrorKind::InvalidAlgorithm.into());
    }
    Ok(Box::new(Ring { algorithm: *algorithm, key: key.clone() }))
}

struct Ring {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl JwtVerifier for Ring {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl Verifier<Vec<u8>> for Ring {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let rsa: &ring::RsaParameters = match self.algorithm {
            Algorithm::RS256 => &ring::RSA_PKCS1_2048_8192_SHA256,
            Algorithm::RS384 => &ring::RSA_PKCS1_2048_8192_SHA384,
            Algorithm::RS512 => &ring::RSA_PKCS1_2048_8192_SHA512,
            Algorithm::PS256 => &ring::RSA_PSS_2048_8192_SHA256,
            Algorithm::PS384 => &ring::RSA_PSS_2048_8192_SHA384,
            Algorithm::PS512 => &ring::RSA_PSS_2048_8192_SHA512,
            Algorithm::ES256 => return self.unparsed(&ring::ECDSA_P256_SHA256_FIXED, message, signature),
            Algorithm::ES384 => return self.unparsed(&ring::ECDSA_P384_SHA384_FIXED, message, signature),
            Algorithm::EdDSA => return self.unparsed(&ring::ED25519, message, signature),
            _ => return Err(signature::Error::new()),
        };
        let DecodingKeyKind::RsaModulusExponent { n, e } = self.key.kind() else {
            return Err(signature::Error::new());
        };
        let (n, e) = (without_zeros(n), without_zeros(e));
        RsaPublicKeyComponents { n, e }.verify(rsa, message, signature).map_err(|_| signature::Error::new())
    }
}

/// Java writes a zero before a number whose first bit is set, and Jenkins publishes its keys so; ring takes none.
fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

impl Ring {
    fn unparsed(
        &self,
        algorithm: &'static dyn ring::VerificationAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), signature::Error> {
        let key = self.key.try_get_as_bytes().map_err(|_| signature::Error::new())?;
        let key = UnparsedPublicKey::new(algorithm, key);
        key.verify(message, signature).map_err(|_| signature::Error::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7515, A.2 and A.3: the tokens and their keys.
    const RSA: [&str; 2] = [
        "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
        "AQAB",
    ];
    const EC: [&str; 2] =
        ["f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"];
    const PAYLOAD: &str =
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    const SIGNED: [(&str, &str); 2] = [
        (
            "eyJhbGciOiJSUzI1NiJ9",
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
        ),
        (
            "eyJhbGciOiJFUzI1NiJ9",
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        ),
    ];

    fn verify(algorithm: Algorithm, key: &DecodingKey, head: &str, signature: &str) -> Result<bool, Error> {
        install();
        let message = format!("{head}.{PAYLOAD}");
        jsonwebtoken::crypto::verify(signature, message.as_bytes(), key, algorithm)
    }

    #[test]
    fn the_signatures_of_the_rfc_are_good_and_no_others() {
        let rsa = DecodingKey::from_rsa_components(RSA[0], RSA[1]).unwrap();
        let ec = DecodingKey::from_ec_components(EC[0], EC[1]).unwrap();
        let [(rsa_head, rsa_signature), (ec_head, ec_signature)] = SIGNED;
        assert!(verify(Algorithm::RS256, &rsa, rsa_head, rsa_signature).unwrap());
        assert!(verify(Algorithm::ES256, &ec, ec_head, ec_signature).unwrap());
        let DecodingKeyKind::RsaModulusExponent { n, e } = rsa.kind() else { panic!("{rsa:?}") };
        let as_java = DecodingKey::from_rsa_raw_components(&[&[0], &**n].concat(), e);
        assert!(verify(Algorithm::RS256, &as_java, rsa_head, rsa_signature).unwrap());
        assert!(!verify(Algorithm::RS256, &rsa, ec_head, rsa_signature).unwrap());
        assert!(!verify(Algorithm::PS256, &rsa, rsa_head, rsa_signature).unwrap());
        assert!(!verify(Algorithm::ES256, &ec, ec_head, rsa_signature).unwrap());
        for (algorithm, key) in [(Algorithm::ES256, &rsa), (Algorithm::RS256, &ec), (Algorithm::HS256, &rsa)]
        {
            assert!(verify(algorithm, key, rsa_head, rsa_signature).is_err(), "{algorithm:?}");
        }
    }
}
