//! The PC: memory map, buses, IRQ wiring, vCPU threads, lifecycle.
