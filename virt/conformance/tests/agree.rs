//! Both engines on every payload: same traces, same end, same final state. Needs KVM hardware.

use conformance::{compare, exceptions, run};
use engine::{Engine, EngineError, VmConfig};

fn soft(config: VmConfig) -> Result<Box<dyn Engine>, EngineError> {
    Ok(Box::new(soft::SoftEngine::new(config)?))
}

fn kvm_engine(config: VmConfig) -> Result<Box<dyn Engine>, EngineError> {
    Ok(Box::new(kvm::KvmEngine::new(config)?))
}

#[test]
fn engines_agree() {
    let verdict = kvm::probe();
    if !verdict.is_hardware() {
        return println!("skipped: {verdict}");
    }
    let mut differences = Vec::new();
    for payload in payloads::all() {
        if let Some(exception) = exceptions::of(payload.name, "kvm") {
            println!("{} is not compared: {}", payload.name, exception.reason);
            continue;
        }
        let on_soft = run(&payload, &soft).expect("the software engine runs payloads");
        let on_kvm = run(&payload, &kvm_engine)
            .unwrap_or_else(|error| panic!("{} on kvm: {error}", payload.name));
        match (on_soft, on_kvm) {
            (Ok(one), Ok(other)) => {
                let found = compare(&payload, &one, &other);
                differences.extend(found.iter().map(|what| format!("{}: {what}", payload.name)));
            }
            (Err(feature), _) | (_, Err(feature)) => {
                println!("{} is not compared: no {} on both", payload.name, feature.name);
            }
        }
    }
    assert!(differences.is_empty(), "soft and kvm differ:\n{}", differences.join("\n"));
}
