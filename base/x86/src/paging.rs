//! Page tables as data: entry bits, and one walk for every paging mode (SDM vol. 3, 4.3-4.7).
