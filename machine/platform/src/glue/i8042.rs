//! The keyboard controller's ports 0x60 and 0x64, IRQ 1 and IRQ 12.

use std::sync::{Arc, Mutex};

use devices::i8042::I8042;

use crate::bus::PortDevice;
use crate::irq::{IrqLine, lock};
use crate::outcome::{Outcome, ResetSource};
use crate::run::Ending;

/// The controller; claimed by [`DataPort`] and [`CommandPort`].
pub(crate) struct Keyboard {
    controller: Mutex<I8042>,
    keyboard_line: IrqLine,
    mouse_line: IrqLine,
    ending: Arc<Ending>,
}

impl Keyboard {
    pub(crate) fn new(
        keyboard_line: IrqLine,
        mouse_line: IrqLine,
        ending: Arc<Ending>,
    ) -> Arc<Self> {
        let controller = Mutex::new(I8042::new());
        Arc::new(Self { controller, keyboard_line, mouse_line, ending })
    }

    /// Scan codes of set 2; false if the guest did not take them.
    pub(crate) fn keys(&self, scancodes: &[u8]) -> bool {
        let mut controller = lock(&self.controller);
        let taken = controller.keys(scancodes);
        self.drive(&controller);
        taken
    }

    pub(crate) fn mouse(&self, dx: i16, dy: i16, buttons: u8) -> bool {
        let mut controller = lock(&self.controller);
        let taken = controller.mouse(dx, dy, buttons);
        self.drive(&controller);
        taken
    }

    fn drive(&self, controller: &I8042) {
        let (keyboard, mouse) = controller.interrupts();
        self.keyboard_line.set(keyboard);
        self.mouse_line.set(mouse);
    }

    fn write(&self, data: &[u8], write: fn(&mut I8042, u8) -> bool) {
        let Some(&value) = data.first() else { return };
        let mut controller = lock(&self.controller);
        let reset = write(&mut controller, value);
        self.drive(&controller);
        drop(controller);
        if reset {
            self.ending.finish(Outcome::Reset { by: ResetSource::KeyboardController });
        }
    }
}

/// Port 0x60.
pub(crate) struct DataPort(pub(crate) Arc<Keyboard>);

impl PortDevice for DataPort {
    fn read(&self, _offset: u16, data: &mut [u8]) {
        let mut controller = lock(&self.0.controller);
        data.fill(controller.read_data());
        // The interrupt falls before the next byte raises it, so that edges are seen.
        self.0.drive(&controller);
        controller.transfer();
        self.0.drive(&controller);
    }

    fn write(&self, _offset: u16, data: &[u8]) {
        self.0.write(data, I8042::write_data);
    }
}

/// Port 0x64.
pub(crate) struct CommandPort(pub(crate) Arc<Keyboard>);

impl PortDevice for CommandPort {
    fn read(&self, _offset: u16, data: &mut [u8]) {
        data.fill(lock(&self.0.controller).read_status());
    }

    fn write(&self, _offset: u16, data: &[u8]) {
        self.0.write(data, I8042::write_command);
    }
}
