//! The proleptic Gregorian calendar, as far as a clock chip needs it.
//!
//! Method: days since a March-based epoch (H. Hinnant, "chrono-compatible low-level date
//! algorithms"). Invariant: `seconds` of any fields is defined; fields out of range carry over.

/// A date and time of day, as the chip's registers split it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Civil {
    pub(super) year: i64,
    /// 1-12.
    pub(super) month: i64,
    /// 1-31.
    pub(super) day: i64,
    pub(super) hour: i64,
    pub(super) minute: i64,
    pub(super) second: i64,
}

impl Civil {
    /// The fields of a Unix time.
    pub(super) fn from_seconds(seconds: i64) -> Self {
        let days = seconds.div_euclid(86_400);
        let of_day = seconds.rem_euclid(86_400);
        let z = days + 719_468;
        let era = z.div_euclid(146_097);
        let day_of_era = z.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        Self {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month,
            day: day_of_year - (153 * shifted_month + 2) / 5 + 1,
            hour: of_day / 3600,
            minute: of_day / 60 % 60,
            second: of_day % 60,
        }
    }

    /// The Unix time of these fields.
    pub(super) fn seconds(&self) -> i64 {
        let month = self.month.clamp(1, 12);
        let year = self.year - i64::from(month <= 2);
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let shifted_month = if month > 2 { month - 3 } else { month + 9 };
        let day_of_year = (153 * shifted_month + 2) / 5 + self.day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * 146_097 + day_of_era - 719_468;
        days * 86_400 + self.hour * 3600 + self.minute * 60 + self.second
    }

    /// 1 = Sunday to 7 = Saturday, as the chip counts.
    pub(super) fn weekday(&self) -> u8 {
        let days = self.seconds().div_euclid(86_400);
        ((days + 4).rem_euclid(7) + 1) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates() {
        let leap = Civil { year: 2024, month: 2, day: 29, hour: 23, minute: 59, second: 59 };
        assert_eq!(Civil::from_seconds(1_709_251_199), leap);
        assert_eq!((leap.seconds(), leap.weekday()), (1_709_251_199, 5));
        assert_eq!(Civil::from_seconds(0).weekday(), 5);
        assert_eq!(Civil::from_seconds(-1).year, 1969);
    }

    #[test]
    fn every_day_for_centuries_round_trips() {
        for day in -40_000..80_000 {
            let seconds = day * 86_400 + 12_345;
            assert_eq!(Civil::from_seconds(seconds).seconds(), seconds);
        }
    }
}
