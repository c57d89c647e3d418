// A list whose links lie in its elements: joining and leaving take a few stores and no memory.
//
//      first ──► element ◄──► element ◄──► element ◄── last
//                 └ link       └ link       └ link
//
// A connection stands in several orders at once (who was idle longest, who waits for a buffer, who lingers)
// and leaves any of them at any time: one link for each order, and leaving needs no search.
//
//   struct Connection { Link<Connection> idle; ... };
//   List<Connection, &Connection::idle> idle_connections;
//
// The list owns nothing. An element leaves every list before it dies.
#pragma once

#include <cassert>
#include <cstddef>

namespace common {

template <class T>
struct Link {
  T* before = nullptr;
  T* after = nullptr;
  bool linked = false;
};

template <class T, Link<T> T::*link>
class List {
 public:
  List() noexcept = default;
  List(const List&) = delete;
  List& operator=(const List&) = delete;

  bool empty() const noexcept { return first_ == nullptr; }
  std::size_t size() const noexcept { return size_; }
  T* first() const noexcept { return first_; }
  static T* next(const T& element) noexcept { return (element.*link).after; }
  static bool contains(const T& element) noexcept { return (element.*link).linked; }

  void push_back(T& element) noexcept {
    Link<T>& own = element.*link;
    assert(!own.linked);
    own = {.before = last_, .after = nullptr, .linked = true};
    T*& pointer_here = last_ != nullptr ? (last_->*link).after : first_;
    pointer_here = &element;
    last_ = &element;
    ++size_;
  }

  /// Does nothing if it is not in the list. (It must not be in another one by the same link.)
  void remove(T& element) noexcept {
    Link<T>& own = element.*link;
    if (!own.linked) return;
    T*& pointer_from_before = own.before != nullptr ? (own.before->*link).after : first_;
    T*& pointer_from_behind = own.after != nullptr ? (own.after->*link).before : last_;
    pointer_from_before = own.after;
    pointer_from_behind = own.before;
    own = {};
    --size_;
  }

  T* pop_front() noexcept {
    T* const element = first_;
    if (element != nullptr) remove(*element);
    return element;
  }

 private:
  T* first_ = nullptr;
  T* last_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace common
