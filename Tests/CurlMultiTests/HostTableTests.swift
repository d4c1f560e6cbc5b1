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

    @Test func aSilentAddressIsTriedAfterTheOthers() {
        var table = HostTable()
        func addresses(_ now: Int64) -> [String] { table.find("h", now: now).addresses }
        table.finished("h", addresses: ["a", "b", "c"], freshUntil: 60)
        table.noteSilence(of: "a", of: "h")
        #expect(addresses(1) == ["b", "c", "a"])
        table.noteSilence(of: "a", of: "h")
        #expect(addresses(2) == ["b", "c", "a"], "several requests may tell of it")
        table.noteSilence(of: "b", of: "h")
        #expect(addresses(3) == ["c", "a", "b"])
        table.finished("h", addresses: ["d", "b", "c"], freshUntil: 120)
        #expect(addresses(61) == ["d", "c", "b"], "it is remembered while the name has it")
        table.finished("h", addresses: ["a", "b"], freshUntil: 180)
        #expect(addresses(121) == ["a", "b"])
        table.noteSilence(of: "c", of: "h")
        #expect(addresses(122) == ["a", "b"])
    }
}
