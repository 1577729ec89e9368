//! The engine traits over Linux's /dev/kvm.
