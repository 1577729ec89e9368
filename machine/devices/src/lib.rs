//! Register models of the PC's legacy devices.
