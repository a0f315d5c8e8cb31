//! `scripts/gpu_check.sh` packs its programs, runs them and writes what came out; here on the
//! simulated driver that they have in them.

#![allow(clippy::unwrap_used)] // A test that cannot go on panics, in helpers too.

mod native;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

/// The test programs of this build by the names that the script gives them, and a benchmark that
/// prints one figure: to build the real one takes minutes.
#[test]
fn the_check_writes_what_every_test_said() {
    let folder = native::empty_folder("gpu-check");
    let deps = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    for name in ["cuda", "graph", "sleep", "share"] {
        let newest = std::fs::read_dir(&deps)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_none())
            .filter(|path| {
                let file = path.file_name().unwrap().to_str().unwrap();
                file.rsplit_once('-').is_some_and(|(stem, _)| stem == name)
            })
            .max_by_key(|path| path.metadata().unwrap().modified().unwrap());
        let Some(newest) = newest else { panic!("{name} is not built; cargo test builds it") };
        symlink(newest, folder.join(format!("test_{name}"))).unwrap();
    }
    let bench = folder.join("bench_cuda");
    std::fs::write(&bench, "#!/bin/sh\necho '{\"bench\":\"cuda\",\"case\":\"one\",\"ours\":1}'\n")
        .unwrap();
    std::fs::set_permissions(&bench, std::fs::Permissions::from_mode(0o755)).unwrap();

    let out = folder.join("out.json");
    let script = native::root().join("scripts/gpu_check.sh");
    let said = Command::new(&script).arg("--sim").arg(&folder).arg(&out).output().unwrap();
    let errors = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.status.success(), "{errors}");
    let json = std::fs::read_to_string(&out).unwrap();
    for part in ["\"gpu\": \"simulated\"", "\"bytes_survive_three_streams\": \"ok\"", "\"one\""] {
        assert!(json.contains(part), "{part} is not in\n{json}");
    }
    assert!(!json.contains("FAILED"), "{json}");

    // A test that fails is in the file and in the exit status.
    let broken = folder.join("test_graph");
    std::fs::remove_file(&broken).unwrap();
    std::fs::write(&broken, "#!/bin/sh\necho 'test a_graph ... FAILED'; exit 101\n").unwrap();
    std::fs::set_permissions(&broken, std::fs::Permissions::from_mode(0o755)).unwrap();
    let said = Command::new(&script).arg("--sim").arg(&folder).arg(&out).output().unwrap();
    assert!(!said.status.success());
    let json = std::fs::read_to_string(&out).unwrap();
    assert!(json.contains("\"a_graph\": \"FAILED\""), "{json}");
    assert!(json.contains("\"status\": 101"), "{json}");
}
