// user_data as a name that can be checked: 64 bits out and back, and a table that knows what is no longer in
// flight.

#include "uring/token.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using uring::InFlight;
using uring::make_token;
using uring::Token;

// The operation that `token` names, which must be in flight.
template <class Op>
Op& at(InFlight<Op>& table, Token token) {
  Op* const found = table.find(token);
  if (found == nullptr) throw std::logic_error("not in flight");
  return *found;
}

}  // namespace

TEST_CASE("a token's three fields come back as they went in, at every edge of each") {
  for (const unsigned kind : {0U, 1U, 0x7fU, 0x80U, 0xffU}) {
    for (const std::uint32_t slot : {0U, 1U, 0x7f'ffffU, 0x80'0000U, 0xff'ffffU}) {
      for (const std::uint32_t generation : {0U, 1U, 0x7fff'ffffU, 0x8000'0000U, 0xffff'ffffU}) {
        const Token token = make_token(static_cast<std::uint8_t>(kind), slot, generation);
        CHECK(token.kind() == kind);
        CHECK(token.slot() == slot);
        CHECK(token.generation() == generation);
      }
    }
  }
}

TEST_CASE("the fields lie where the picture says: kind, generation, slot from the top") {
  CHECK(make_token(0xab, 0, 0).bits == 0xab00'0000'0000'0000);
  CHECK(make_token(0, 0, 0x1234'5678).bits == 0x0012'3456'7800'0000);
  CHECK(make_token(0, 0x9a'bcde, 0).bits == 0x0000'0000'009a'bcde);
  CHECK(make_token(0xff, 0xff'ffff, 0xffff'ffff).bits == ~std::uint64_t{0});
  static_assert(make_token(1, 2, 3) == Token{0x0100'0000'0300'0002});
}

TEST_CASE("any 64 bits are a token, and stay what they are") {
  std::mt19937_64 random(1);
  for (int i = 0; i < 10'000; ++i) {
    const Token token{random()};
    CHECK(make_token(token.kind(), token.slot(), token.generation()) == token);
  }
  for (const std::uint64_t bits :
       {std::uint64_t{0}, ~std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{1} << 63}) {
    CHECK(make_token(Token{bits}.kind(), Token{bits}.slot(), Token{bits}.generation()).bits == bits);
  }
}

TEST_CASE("an operation in flight is found by its token until it is finished, once") {
  InFlight<std::string> table;
  const auto read = table.start(1, "read");
  const auto write = table.start(2, "write");
  REQUIRE(read);
  REQUIRE(write);
  CHECK(read->kind() == 1);
  CHECK(write->kind() == 2);
  REQUIRE(table.find(*read) != nullptr);
  CHECK(at(table, *read) == "read");
  CHECK(at(table, *write) == "write");
  CHECK(table.size() == 2);
  at(table, *read) += " more";
  CHECK(at(table, *read) == "read more");

  CHECK(table.finish(*read));
  CHECK(table.find(*read) == nullptr);
  CHECK_FALSE(table.finish(*read));  // the second time nothing happens
  CHECK(table.size() == 1);
  CHECK(at(table, *write) == "write");
}

TEST_CASE("a slot that was given out again does not answer to its old token") {
  InFlight<int> table;
  const Token old = *table.start(1, 10);
  REQUIRE(table.finish(old));
  const Token young = *table.start(1, 20);
  CHECK(young.slot() == old.slot());  // last freed, first reused
  CHECK_FALSE(young == old);
  CHECK(table.find(old) == nullptr);
  CHECK_FALSE(table.finish(old));
  CHECK(at(table, young) == 20);
}

TEST_CASE("ten thousand lives of one slot: no token of an earlier life matches a later one") {
  InFlight<int> table(1);
  std::vector<Token> dead;
  std::set<std::uint64_t> seen;
  for (int life = 0; life < 10'000; ++life) {
    const auto token = table.start(7, life);
    REQUIRE(token);
    CHECK(token->slot() == 0);
    CHECK(token->generation() % 2 == 1);  // odd while in use: no token matches a free slot
    CHECK(seen.insert(token->bits).second);
    for (std::size_t i = dead.size() > 20 ? dead.size() - 20 : 0; i < dead.size(); ++i) {
      CHECK(table.find(dead[i]) == nullptr);
    }
    CHECK(at(table, *token) == life);
    REQUIRE(table.finish(*token));
    dead.push_back(*token);
  }
  for (const Token token : dead) CHECK(table.find(token) == nullptr);
}

TEST_CASE("a token that the table never gave out is unknown, not a crash") {
  InFlight<int> table;
  CHECK(table.find(Token{0}) == nullptr);
  CHECK(table.find(Token{~std::uint64_t{0}}) == nullptr);
  CHECK_FALSE(table.finish(Token{0}));
  const Token token = *table.start(1, 1);
  CHECK(table.find(Token{0}) == nullptr);                                             // generation 0: free
  CHECK(table.find(make_token(1, token.slot() + 1, token.generation())) == nullptr);  // no such slot
  CHECK(table.find(make_token(1, token.slot(), token.generation() + 1)) == nullptr);  // not yet
  CHECK(table.find(make_token(1, token.slot(), token.generation() + 2)) == nullptr);  // nor that
  CHECK(table.find(make_token(1, 0xff'ffff, token.generation())) == nullptr);
  REQUIRE(table.finish(token));
  // A free slot has an even generation; a forged token with that very generation must not find it.
  CHECK(table.find(make_token(1, token.slot(), token.generation() + 1)) == nullptr);
  CHECK(table.size() == 0);
}

TEST_CASE("one connection's recv and send are one entry under two kinds") {
  InFlight<int> table;
  const Token recv = *table.start(1, 5);
  const Token send = InFlight<int>::with_kind(recv, 2);
  CHECK(send.kind() == 2);
  CHECK_FALSE(send == recv);
  CHECK(table.find(send) == table.find(recv));
  CHECK(table.finish(send));
  CHECK(table.find(recv) == nullptr);
}

TEST_CASE("capacity is how many at a time, not how many ever") {
  InFlight<int> table(3);
  CHECK(table.capacity() == 3);
  std::array<Token, 3> tokens{};
  for (int round = 0; round < 100; ++round) {
    for (Token& token : tokens) {
      const auto started = table.start(1, round);
      REQUIRE(started);
      token = *started;
    }
    CHECK_FALSE(table.start(1, 99));
    CHECK(table.size() == 3);
    for (const Token token : tokens) REQUIRE(table.finish(token));
  }
  CHECK_FALSE(InFlight<int>(0).start(1, 1));
}

TEST_CASE("the table grows with what is in flight, and everything stays findable") {
  InFlight<std::size_t> table;
  std::vector<Token> tokens;
  for (std::size_t i = 0; i < 50'000; ++i) tokens.push_back(*table.start(static_cast<std::uint8_t>(i), i));
  CHECK(table.size() == 50'000);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    CHECK(tokens[i].kind() == static_cast<std::uint8_t>(i));
    REQUIRE(table.find(tokens[i]) != nullptr);
    REQUIRE(at(table, tokens[i]) == i);
  }
}

TEST_CASE("what is left at the end was leaked, and for_each says which") {
  InFlight<std::string> table;
  const Token first = *table.start(1, "first");
  const Token second = *table.start(1, "second");
  const Token third = *table.start(1, "third");
  table.finish(second);
  CHECK(table.size() == 2);
  std::vector<std::string> left;
  table.for_each([&](std::string& op) { left.push_back(op); });
  CHECK(left == std::vector<std::string>{"first", "third"});
  table.finish(first);
  table.finish(third);
  int visits = 0;
  table.for_each([&](std::string&) { ++visits; });
  CHECK(visits == 0);
}

TEST_CASE("a finished operation is destroyed at once, not when its slot is reused") {
  const auto alive = std::make_shared<int>(0);
  InFlight<std::shared_ptr<int>> table;
  const Token token = *table.start(1, alive);
  CHECK(alive.use_count() == 2);
  table.finish(token);
  CHECK(alive.use_count() == 1);
}

TEST_CASE("operations that can only be moved live in the table too") {
  InFlight<std::unique_ptr<int>> table;
  std::vector<Token> tokens;
  for (int i = 0; i < 100; ++i) tokens.push_back(*table.start(1, std::make_unique<int>(i)));
  for (int i = 0; i < 100; ++i) CHECK(*at(table, tokens[static_cast<std::size_t>(i)]) == i);
}

TEST_CASE("a hundred thousand random operations agree with a std::map") {
  std::mt19937 random(2);
  InFlight<unsigned> table(500);
  std::map<std::uint64_t, unsigned> model;
  std::vector<Token> dead;
  for (unsigned step = 0; step < 100'000; ++step) {
    const unsigned dice = random() % 8;
    if (dice < 4) {
      const auto token = table.start(static_cast<std::uint8_t>(random()), step);
      REQUIRE(token.has_value() == (model.size() < 500));
      if (token) REQUIRE(model.emplace(token->bits, step).second);
    } else if (dice < 7 && !model.empty()) {
      auto some = model.lower_bound(std::uint64_t{random()} << 32);
      if (some == model.end()) some = model.begin();
      const Token token{some->first};
      REQUIRE(table.find(token) != nullptr);
      REQUIRE(at(table, token) == some->second);
      REQUIRE(table.finish(token));
      model.erase(some);
      dead.push_back(token);
    } else if (!dead.empty()) {
      const Token token = dead[random() % dead.size()];
      REQUIRE(table.find(token) == nullptr);
      REQUIRE_FALSE(table.finish(token));
    }
    REQUIRE(table.size() == model.size());
  }
  unsigned visited = 0;
  table.for_each([&](unsigned&) { ++visited; });
  CHECK(visited == model.size());
  CHECK(dead.size() > 10'000);
}

namespace {

struct Fragile {
  bool breaks = false;
  Fragile() = default;
  explicit Fragile(bool b) : breaks(b) {}
  Fragile(Fragile&& other) : breaks(other.breaks) {
    if (breaks) throw 1;
  }
  Fragile& operator=(Fragile&&) = delete;
};

TEST_CASE("an operation whose move throws takes no slot") {
  uring::InFlight<Fragile> table(1);
  CHECK_THROWS_AS(table.start(0, Fragile(true)), int);
  CHECK(table.size() == 0);
  const auto token = table.start(0, Fragile(false));
  REQUIRE(token.has_value());
  CHECK(table.find(*token) != nullptr);
  CHECK(table.finish(*token));
}

}  // namespace
