//! Both engines on every payload: same traces, same end, same final state. Needs KVM hardware.

use std::arch::x86_64::__cpuid;

use conformance::exceptions::{self, Host};
use conformance::{compare, run};
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
    let host = Host::new("kvm", __cpuid(0).ebx, __cpuid(0x4000_0000).ebx);
    let (mut differences, mut compared) = (Vec::new(), 0);
    for payload in payloads::all() {
        // A guest that takes the host down with it is the last one named.
        println!("{}", payload.name);
        let exception = exceptions::of(payload.name, host);
        if let Some(exception) = exception {
            println!("{} is judged {}: {}", payload.name, exception.extent(), exception.reason);
            if exception.from.is_none() {
                continue;
            }
        }
        let on_soft = run(&payload, &soft).expect("the software engine runs payloads");
        let on_kvm = match run(&payload, &kvm_engine) {
            Ok(on_kvm) => on_kvm,
            Err(error) => {
                differences.push(format!("{}: {error}", payload.name));
                continue;
            }
        };
        match (on_soft, on_kvm) {
            (Ok(one), Ok(other)) => {
                compared += 1;
                let found = compare(&payload, &one, &other, exception);
                differences.extend(found.iter().map(|what| format!("{}: {what}", payload.name)));
            }
            (Err(feature), _) | (_, Err(feature)) => {
                println!("{} is not compared: no {} on both", payload.name, feature.name);
            }
        }
    }
    println!("{compared} payloads compared");
    assert!(compared > 80, "{compared} payloads compared show little");
    assert!(differences.is_empty(), "soft and kvm differ:\n{}", differences.join("\n"));
}
