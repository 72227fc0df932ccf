// The past of all beams: a tree of nodes. A node is one word at one place of one hypothesis; every layer keeps a row of
// numbers for it. A node that no beam descends from gives its place to a new one.
#pragma once

#include <ATen/ATen.h>

#include <vector>

namespace fairseq_el {

class Nodes {
 public:
  // Rows of `width` numbers for each of `layers`, in blocks of `block_size` nodes: what is there is never moved.
  Nodes(int64_t layers, int64_t width, int64_t block_size, at::ScalarType dtype)
      : layers_(layers), width_(width), block_size_(block_size), dtype_(dtype) {}

  // A new node, which one beam ends in; its parent (-1: none) has one user less and one child more.
  int32_t add(int32_t parent, int64_t token, float score) {
    if (free_.empty()) grow();
    const int32_t node = free_.back();
    free_.pop_back();
    nodes_[node] = {parent, 1, token, score};
    return node;
  }

  void use(int32_t node) { nodes_[node].users++; }

  // One beam or child less. Nodes without any are free, and so on towards the root.
  void release(int32_t node) {
    while (node >= 0 && --nodes_[node].users == 0) {
      free_.push_back(node);
      node = nodes_[node].parent;
    }
  }

  void set_score(int32_t node, float score) { nodes_[node].score = score; }
  int64_t token(int32_t node) const { return nodes_[node].token; }
  float score(int32_t node) const { return nodes_[node].score; }  // of the hypothesis up to this word

  template <class T>
  T* row(int64_t layer, int32_t node) const {
    const int64_t place = layer * block_size_ + node % block_size_;
    return static_cast<T*>(starts_[node / block_size_]) + place * width_;
  }

  // Of all blocks, used or free, and of what is noted about each node.
  int64_t size_bytes() const {
    return int64_t(blocks_.size()) * layers_ * block_size_ * width_ * int64_t(c10::elementSize(dtype_)) +
           int64_t(nodes_.capacity() * sizeof(Node) + free_.capacity() * sizeof(int32_t));
  }

 private:
  struct Node {
    int32_t parent, users;
    int64_t token;
    float score;
  };

  void grow() {
    blocks_.push_back(at::empty({layers_, block_size_, width_}, at::TensorOptions().dtype(dtype_)));
    starts_.push_back(blocks_.back().data_ptr());
    const int64_t begin = int64_t(nodes_.size());
    nodes_.resize(begin + block_size_);
    for (int64_t i = block_size_; i > 0; i--) free_.push_back(int32_t(begin + i - 1));
  }

  const int64_t layers_, width_, block_size_;
  const at::ScalarType dtype_;
  std::vector<Node> nodes_;
  std::vector<int32_t> free_;
  std::vector<at::Tensor> blocks_;
  std::vector<void*> starts_;
};

}  // namespace fairseq_el
