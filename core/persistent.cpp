#include "core/persistent.h"

#include "core/error.h"

namespace capstan {

int PersistentSpace::add(const std::string& name, const TensorSpec& spec, Purpose purpose, int copies) {
  CAPSTAN_CHECK(!names_.contains(name), "two persistent tensors are named {}", name);
  PersistentTensor tensor{name, spec, purpose};
  tensor.bytes = static_cast<size_t>(element_count(local_shape(spec, mesh_))) * bytes_of(spec.dtype);
  tensor.copies = copies;
  tensors_.push_back(tensor);
  return names_[name] = static_cast<int>(tensors_.size()) - 1;
}

int PersistentSpace::add_absent(const std::string& name, const TensorSpec& spec, Purpose purpose) {
  return add(name, spec, purpose, 0);
}

int PersistentSpace::add_view(const std::string& name, const TensorSpec& spec, int parent, size_t offset) {
  const int index = add(name, spec, at(parent).purpose);
  PersistentTensor& view = tensors_.back();
  view.parent = parent;
  view.offset_in_parent = offset;
  CAPSTAN_CHECK(offset + view.bytes <= at(parent).bytes, "view {} ends beyond {}", name, at(parent).name);
  return index;
}

int PersistentSpace::add_own_piece(const std::string& name, const TensorSpec& spec, int parent, size_t offset) {
  const int index = add_view(name, spec, parent, offset);
  tensors_.back().own_piece = true;
  return index;
}

int PersistentSpace::find(const std::string& name) const {
  const auto found = names_.find(name);
  return found == names_.end() ? -1 : found->second;
}

void PersistentSpace::lay_out(size_t guard) {
  bytes_ = 0;
  for (PersistentTensor& tensor : tensors_) {
    if (tensor.parent >= 0) continue;
    tensor.offset = bytes_;
    tensor.stride = aligned(tensor.bytes) + aligned(guard);
    bytes_ += tensor.stride * static_cast<size_t>(tensor.copies);
  }
}

PersistentSpace::Root PersistentSpace::root(int index) const {
  Root root{index, 0};
  for (; at(root.index).parent >= 0; root.index = at(root.index).parent) root.begin += at(root.index).offset_in_parent;
  return root;
}

size_t PersistentSpace::offset(int index) const {
  const auto [whole, begin] = root(index);
  return at(whole).offset + begin;
}

}  // namespace capstan
