//! The software CPU: block cache, TLB, host SIMD, vCPU run loop.
