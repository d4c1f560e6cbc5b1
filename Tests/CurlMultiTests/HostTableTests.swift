import Testing

@testable import CurlMulti

struct HostTableTests {
    /// S23: an answer is used for its lifetime, then asked for again; until the new one comes the old one serves.
    @Test func anAddressThatChangesIsUsedOnceTheOldOneIsStale() {
        var table = HostTable()
        #expect(table.find("h", now: 0) == ([], true))
        #expect(table.find("h", now: 1) == ([], false), "one look-up at a time")
        table.finished("h", addresses: ["192.0.2.1"], freshUntil: 60)
        #expect(table.find("h", now: 59) == (["192.0.2.1"], false))
        #expect(table.find("h", now: 60) == (["192.0.2.1"], true))
        #expect(table.find("h", now: 61) == (["192.0.2.1"], false))
        table.finished("h", addresses: ["192.0.2.2"], freshUntil: 120)
        #expect(table.find("h", now: 62) == (["192.0.2.2"], false))
    }

    @Test func aLookUpThatFailsKeepsTheOldAddressAndIsTriedAgain() {
        var table = HostTable()
        _ = table.find("h", now: 0)
        table.finished("h", addresses: ["192.0.2.1"], freshUntil: 60)
        _ = table.find("h", now: 60)
        table.finished("h", addresses: [], freshUntil: 120)
        #expect(table.find("h", now: 61) == (["192.0.2.1"], true))
    }
}
