//! Generates `wharf.v1`, and the APIs of the kubelet, from `proto/`, without a `protoc` on the machine.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

/// Not among the descriptors of reflection: no client of Wharf calls them.
const KUBELETS: [&str; 2] = ["csi/v1/csi", "pluginregistration/api"];
const PROTOS: [&str; 8] = ["build", "error", "image", "namespace", "node", "policy", "progress", "registry"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = PROTOS.map(|name| format!("proto/wharf/v1/{name}.proto"));
    let descriptors = protox::compile(&files, ["proto"])?;
    // Reflection serves the descriptors with their comments: they are the reference.
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("wharf.v1.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // What is passed on is not copied.
        .bytes(".wharf.v1.AttachRequest")
        .bytes(".wharf.v1.AttachResponse")
        .bytes(".wharf.v1.BuildRequest")
        .bytes(".wharf.v1.SaveImagesResponse")
        .bytes(".wharf.v1.VertexLog")
        .compile_fds(descriptors)?;
    let files = KUBELETS.map(|name| format!("proto/kubelet/{name}.proto"));
    tonic_prost_build::configure().compile_fds(protox::compile(&files, ["proto/kubelet"])?)?;
    Ok(())
}
